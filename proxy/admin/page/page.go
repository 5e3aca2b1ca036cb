// Package page is the status page for browsers: the cluster, its limits, refusals and
// sessions. The server renders it. A script keeps it up to date by asking for the same
// page again whenever the event stream of the API tells of a change. It works without
// the script as well, and loads nothing from elsewhere.
package page

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"strings"

	"usher/proxy/admin/api"
	"usher/proxy/printable"
)

// Prefix begins the paths of the script, the style sheet and the icon.
const Prefix = "/page/"

// policy lets the page load its own files and ask its own server, and nothing else. No
// other page can frame it.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

//go:embed files
var files embed.FS

// Options configure a Page.
type Options struct {
	Source api.Source
	// MayRead reports whether a request may read what Source tells. To others, the page
	// shows a form for the token. nil: all may.
	MayRead func(*http.Request) bool
}

// Page is safe for concurrent use.
type Page struct {
	o      Options
	html   *template.Template
	assets map[string]asset
	texts  texts
}

// New returns the page.
func New(o Options) *Page {
	p := &Page{o: o, assets: loadAssets()}
	p.html = template.Must(template.New("").Funcs(template.FuncMap{
		"asset": p.address, "n": grouped[int], "safe": printable.Text,
	}).ParseFS(files, "files/*.html"))
	return p
}

// ForBrowser reports whether a request for / comes from a browser. Other programs, such
// as curl, ask for no text/html by name.
func ForBrowser(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// ServeHTTP answers a browser's request for /.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer") // what was searched for is nobody else's business
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Add("Vary", "Accept")
	if p.o.MayRead != nil && !p.o.MayRead(r) {
		p.render(w, http.StatusUnauthorized, "locked", nil)
		return
	}
	p.render(w, http.StatusOK, "status", p.look(r.Context(), askedOf(r.URL.Query())))
}

// render answers with a template. Nothing is sent if it fails half-way.
func (p *Page) render(w http.ResponseWriter, code int, name string, data any) {
	var out bytes.Buffer
	if err := p.html.ExecuteTemplate(&out, name, data); err != nil {
		http.Error(w, "the status page cannot be shown: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(code)
	_, _ = out.WriteTo(w) // it fails only if the client is gone
}
