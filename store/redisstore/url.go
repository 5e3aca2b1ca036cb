package redisstore

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// location is the content of a store's URL. Errors about it never quote the text. Any
// part could be from a password, if special characters in it are not written as %XX.
type location struct {
	scheme   string
	form     form
	hosts    []string // host:port; of a unix socket its path
	path     string   // as written, for people
	master   string   // the name that the sentinels know the primary by
	db       int
	shards   int
	client   string // the connections' name in CLIENT LIST
	protocol int    // version of Redis' own protocol
	files    tlsFiles
	login    login // of the Redis servers
	sentinel login
}

// form describes a scheme.
type form struct {
	kind kind
	tls  bool
	port string // when the URL names none
	like string // an example
}

type kind int

const (
	oneServer kind = iota
	behindSentinels
	redisCluster
)

var forms = map[string]form{
	"redis":           {oneServer, false, "6379", "redis://host:port/db"},
	"rediss":          {oneServer, true, "6379", "rediss://host:port/db"},
	"unix":            {oneServer, false, "", "unix:///path/of/socket?db=0"},
	"redis+sentinel":  {behindSentinels, false, "26379", "redis+sentinel://host:port,host:port/master-name/db"},
	"rediss+sentinel": {behindSentinels, true, "26379", "rediss+sentinel://host:port,host:port/master-name/db"},
	"redis+cluster":   {redisCluster, false, "6379", "redis+cluster://host:port,host:port"},
	"rediss+cluster":  {redisCluster, true, "6379", "rediss+cluster://host:port,host:port"},
}

// clusterShards is the number of shards on a Redis Cluster. All of a rule is
// in one shard, so that it bounds how many nodes can share the work. Each
// costs every replica one connection and two small requests every tenth of
// the lease TTL.
const clusterShards = 16

// maxShards prevents a typing error from opening a million connections.
const maxShards = 1024

var (
	errNotURL = errors.New("not a URL (not shown, it may hold a password); " +
		"write redis://host:port/db, with special characters of a password as %XX")
	errStrayAt = errors.New("an @ after the host (not shown, it may end a password); " +
		"write special characters of a password as %XX, and @ as %40")
)

// Address checks a store's URL and returns it without user, password and
// options, to be shown to people. Its errors do not quote the text.
func Address(rawURL string) (string, error) {
	l, err := parseURL(rawURL)
	if err != nil {
		return "", err
	}
	if l.scheme == "unix" {
		return "unix://" + l.path, nil
	}
	return l.scheme + "://" + strings.Join(l.hosts, ",") + l.path, nil
}

// parseURL reads scheme://[user:password@]host[:port][,host[:port]...]/path?options.
// net/url takes no list of hosts, so the authority is taken apart here.
func parseURL(text string) (*location, error) {
	scheme, rest, ok := strings.Cut(strings.TrimSpace(text), "://")
	if !ok {
		scheme, _, _ = strings.Cut(scheme, ":")
	}
	f, known := forms[scheme]
	switch {
	case !known && !ok:
		return nil, errNotURL
	case !known:
		return nil, fmt.Errorf("unknown kind of store %q; write redis://, rediss://, unix://, "+
			"redis+sentinel:// or redis+cluster:// (or rediss+... for TLS)", scheme)
	case !ok:
		return nil, fmt.Errorf("the URL has no host; write %s", f.like)
	}
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	userinfo, hosts := "", authority
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		userinfo, hosts = authority[:i+1], authority[i+1:]
	}
	u, err := url.Parse("redis://" + userinfo + "host" + tail)
	if err != nil || u.Fragment != "" {
		return nil, errNotURL
	}
	if strings.Contains(tail, "@") {
		return nil, errStrayAt
	}
	l := &location{scheme: scheme, form: f, path: u.Path, shards: 1}
	l.login.user = u.User.Username()
	l.login.password, _ = u.User.Password()
	if err := l.readHosts(hosts); err != nil {
		return nil, err
	}
	if err := l.readPath(u.Path); err != nil {
		return nil, err
	}
	options, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errNotURL
	}
	return l, l.readOptions(options)
}

func (l *location) readHosts(text string) error {
	if l.scheme == "unix" {
		if text != "" {
			return fmt.Errorf("a unix socket has no host; write %s", l.form.like)
		}
		return nil
	}
	if text == "" {
		return fmt.Errorf("the URL has no host; write %s", l.form.like)
	}
	for h := range strings.SplitSeq(text, ",") {
		u, err := url.Parse("redis://" + h)
		if err != nil || u.Hostname() == "" || u.Host != h {
			return fmt.Errorf("a host of the URL is malformed; write %s", l.form.like)
		}
		port := u.Port()
		if port == "" {
			port = l.form.port
		}
		l.hosts = append(l.hosts, net.JoinHostPort(u.Hostname(), port))
	}
	if l.form.kind == oneServer && len(l.hosts) > 1 {
		return fmt.Errorf("several hosts, but %s:// is one server; write %s or %s", l.scheme, l.ofKind("cluster").like, l.ofKind("sentinel").like)
	}
	return nil
}

// ofKind returns the form of several servers that keeps TLS if l has it.
func (l *location) ofKind(kind string) form {
	if l.form.tls {
		return forms["rediss+"+kind]
	}
	return forms["redis+"+kind]
}

func (l *location) readPath(path string) error {
	wrong := fmt.Errorf("the path of the URL is malformed; write %s", l.form.like)
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	switch {
	case l.scheme == "unix":
		if len(parts) == 0 {
			return wrong
		}
		l.hosts = []string{path}
		return nil
	case l.form.kind == behindSentinels:
		if len(parts) == 0 {
			return fmt.Errorf("the URL lacks the name of the primary; write %s", l.form.like)
		}
		l.master, parts = parts[0], parts[1:]
	}
	if len(parts) == 0 {
		return nil
	}
	db, err := strconv.ParseUint(parts[0], 10, 31)
	if err != nil || len(parts) > 1 || l.form.kind == redisCluster {
		return wrong
	}
	l.db = int(db)
	return nil
}

// readOptions reads the part after the question mark. An unknown option is an error.
func (l *location) readOptions(options url.Values) error {
	if l.form.kind == redisCluster {
		l.shards = clusterShards
	}
	for name, values := range options {
		value := values[len(values)-1]
		var err error
		switch name {
		case "db":
			l.db, err = number(value, 0, 1<<31-1)
		case "shards":
			l.shards, err = number(value, 1, maxShards)
		case "protocol":
			l.protocol, err = number(value, 2, 3)
		case "client_name":
			l.client = value
		case "ca":
			l.files.ca = value
		case "cert":
			l.files.cert = value
		case "key":
			l.files.key = value
		case "skip_verify":
			l.files.skipVerify, err = strconv.ParseBool(value)
		case "sentinel_username":
			l.sentinel.user = value
		case "sentinel_password":
			l.sentinel.password = value
		default:
			return errors.New("an unknown option after the ? of the URL; known are ca, cert, key, skip_verify, db, " +
				"shards, protocol, client_name, sentinel_username and sentinel_password")
		}
		if err != nil {
			return fmt.Errorf("option %s of the URL has a wrong value: %w", name, err)
		}
	}
	switch {
	case !l.form.tls && l.files != (tlsFiles{}):
		return errors.New("options about TLS, but the URL is not of a kind with TLS; write rediss instead of redis")
	case (l.files.cert == "") != (l.files.key == ""):
		return errors.New("options cert and key of the URL go together")
	case l.form.kind != behindSentinels && l.sentinel != (login{}):
		return fmt.Errorf("options about sentinels, but the URL is not of that kind; write %s", l.ofKind("sentinel").like)
	case l.form.kind == redisCluster && l.db != 0:
		return errors.New("a Redis Cluster has database 0 only")
	}
	return nil
}

func number(text string, least, most int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("write a number from %d to %d", least, most)
	}
	return n, nil
}
