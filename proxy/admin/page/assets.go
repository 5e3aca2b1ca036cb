package page

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"
)

// asset is a file that the page loads.
type asset struct {
	kind    string // Content-Type
	text    []byte
	version string // changes with the text
}

// kinds are the Content-Types of the assets. Other files are templates.
var kinds = map[string]string{
	"page.css": "text/css; charset=utf-8",
	"page.js":  "text/javascript; charset=utf-8",
	"icon.svg": "image/svg+xml",
}

func loadAssets() map[string]asset {
	all := map[string]asset{}
	for name, kind := range kinds {
		text, err := files.ReadFile("files/" + name)
		if err != nil {
			panic(err) // it is embedded
		}
		sum := sha256.Sum256(text)
		all[name] = asset{kind: kind, text: text, version: hex.EncodeToString(sum[:6])}
	}
	return all
}

// address returns the path of an asset. It changes with the text, so that browsers may
// keep what they have, and never mix the files of two versions of Usher.
func (p *Page) address(name string) string { return Prefix + name + "?v=" + p.assets[name].version }

// Assets answers the paths below Prefix. They tell nothing about the cluster.
func (p *Page) Assets() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := p.assets[r.URL.Path[len(Prefix):]]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", a.kind)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.URL.Query().Get("v") == a.version {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.text))
	})
}
