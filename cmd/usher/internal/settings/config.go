// Package settings reads the configuration of usher from the environment. The
// tags of Config describe each variable once, for parsing, checks and help.
package settings

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Config is everything that the environment says. The tags are the one place
// where a variable is described: parsing, checking and the help read them.
//
//	env, envDefault   name and default
//	enum, min, max    what is accepted
//	help              its meaning
type Config struct {
	Listen       []HostPort    `env:"USHER_LISTEN" envDefault:"127.0.0.1:1080" help:"Addresses for SOCKS clients, separated by commas. 0.0.0.0:1080 is every address of IPv4, [::]:1080 every one of IPv6, and :1080 both. When it is set, it wins over the internal: lines of the rule file."`
	RuleFile     string        `env:"USHER_CONFIG" help:"The rule file, in Dante's language. Without one, built-in rules let clients on the loopback addresses through and nobody else."`
	UsersFile    string        `env:"USHER_USERS_FILE" help:"Names and passwords in htpasswd format. With it, and without a socksmethod line, clients must give a name and a password."`
	GroupsFile   string        `env:"USHER_GROUPS_FILE" help:"Who is in the groups that group: in a rule names, in htgroup format (group: user user). Needs USHER_USERS_FILE."`
	Store        StoreURL      `env:"USHER_STORE" envDefault:"memory" help:"Where sessions are counted: memory (limits hold for this process), or a Redis that all replicas use (limits hold over them): redis://[user:password@]host:port/db, unix:///socket, redis+sentinel://host:port,host:port/name, redis+cluster://host:port,host:port; rediss instead of redis for TLS. docs/redis.md has the options."`
	Cluster      string        `env:"USHER_CLUSTER" envDefault:"default" help:"Name of this set of replicas in the store. Sets with different names do not see each other's sessions."`
	LeaseTTL     time.Duration `env:"USHER_LEASE_TTL" envDefault:"10s" min:"1s" max:"10m" help:"How long a replica that died keeps its slots. The same on all replicas. At least 50 times the worst round trip to the store that is usual: a request may take a tenth of it."`
	LeaseLoss    string        `env:"USHER_LEASE_LOSS" envDefault:"keep" enum:"keep,close" help:"What becomes of limited sessions on a replica that is cut off from the store: keep lets them live, close ends them before their slots can be given to others. The same on all replicas."`
	StoreWait    time.Duration `env:"USHER_STORE_WAIT" envDefault:"3s" min:"0s" max:"1m" help:"How long a limited session may wait for a store that is slow or away before it is refused. While the store answers, one question may take a tenth of the lease in any case."`
	StoreDown    string        `env:"USHER_STORE_DOWN" envDefault:"refuse" enum:"refuse,admit" help:"What becomes of a limited session when that wait is over: refuse, or admit it if this replica's own sessions are below the limit, so that each replica then holds the limit by itself. admit needs USHER_LEASE_LOSS=keep."`
	ProxyFrom    Prefixes      `env:"USHER_PROXY_PROTOCOL_FROM" help:"Networks of the balancers, separated by commas. They must send a PROXY protocol header (version 1 or 2); nobody else may. Every host in these networks can claim any client address, so name only the balancers' own addresses."`
	BindTimeout  time.Duration `env:"USHER_BIND_TIMEOUT" envDefault:"3m" min:"1s" max:"24h" help:"How long a BIND request waits for its peer to connect."`
	Negotiating  int           `env:"USHER_MAX_NEGOTIATING" envDefault:"0" min:"0" max:"10000000" help:"How many clients may be between their connection and their complete request; for each one more, one of them is closed. 0: a quarter of the descriptors that the process may open."`
	AuthFailures int           `env:"USHER_AUTH_FAILURES" envDefault:"10" min:"0" max:"1000000" help:"How many wrong passwords an address (of IPv6: a /64) may give in a minute; then its passwords are refused for a minute, unseen. 0: any number. Choose 0 if all clients come from one address, as behind a balancer that hides them."`
	UDPAdvertise Addresses     `env:"USHER_UDP_ADVERTISE" help:"The address that clients are told to send their datagrams to, at most one of IPv4 and one of IPv6, separated by a comma: that of this replica, never that of a balancer. Without it, it is the address that the client's connection came in on."`
	UDPPorts     PortRange     `env:"USHER_UDP_PORTS" help:"The ports that clients are told to send their datagrams to, such as 20000-20999; one for each association, so at least as many as there are associations at a time. udp.portrange in a rule wins for the clients of that rule. Without it, the system chooses."`
	UDPRelayFrom Prefixes      `env:"USHER_UDP_RELAY_FROM" help:"Networks of balancers that hide the client and send no PROXY header, such as relayd, separated by commas. Behind them a client's datagrams are taken from the address that it announced, if that was complete (an address and a port), else from the first one that the rules pass."`
	AdminListen  AdminAddr     `env:"USHER_ADMIN_LISTEN" envDefault:"127.0.0.1:9090" help:"Address for health checks, metrics and status over HTTP, without a password: keep it private. off opens none."`
	DrainGrace   time.Duration `env:"USHER_DRAIN_GRACE" envDefault:"3s" min:"0s" max:"10m" help:"After SIGTERM: how long to report not ready and still accept, so that balancers look elsewhere first. At least their check interval times the failures they wait for."`
	DrainTimeout time.Duration `env:"USHER_DRAIN_TIMEOUT" envDefault:"30s" min:"0s" max:"24h" help:"After the grace: how long sessions may go on before they are cut."`
	LogFormat    string        `env:"USHER_LOG_FORMAT" envDefault:"auto" enum:"auto,text,json" help:"auto is text on a terminal and JSON elsewhere."`
	LogLevel     string        `env:"USHER_LOG_LEVEL" envDefault:"info" enum:"debug,info,warn,error" help:"The least severe lines that are logged."`

	ListenSet bool // USHER_LISTEN was given
}

// variable describes one field of Config.
type variable struct {
	name, kind, def, help string
	min, max              int64    // of durations, in nanoseconds, and of numbers
	enum                  []string // nil: anything that kind allows
	index                 int
}

// variables lists the fields of Config in their order.
func variables() []variable {
	t := reflect.TypeFor[Config]()
	var list []variable
	for i := range t.NumField() {
		f := t.Field(i)
		name, ok := f.Tag.Lookup("env")
		if !ok {
			continue
		}
		v := variable{name: name, def: f.Tag.Get("envDefault"), help: f.Tag.Get("help"), index: i}
		if enum, ok := f.Tag.Lookup("enum"); ok {
			v.enum = strings.Split(enum, ",")
		}
		v.kind = kindOf(f.Type, v.enum)
		switch v.kind {
		case "duration":
			v.min, v.max = mustDuration(f.Tag.Get("min")), mustDuration(f.Tag.Get("max"))
		case "number":
			v.min, v.max = mustNumber(f.Tag.Get("min")), mustNumber(f.Tag.Get("max"))
		}
		list = append(list, v)
	}
	return list
}

// mustDuration panics on a malformed tag, which any test that starts finds.
func mustDuration(tag string) int64 {
	d, err := time.ParseDuration(tag)
	if err != nil {
		panic(err)
	}
	return int64(d)
}

// mustNumber panics on a malformed tag, too.
func mustNumber(tag string) int64 {
	n, err := strconv.ParseInt(tag, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// kindOf names a type for people.
func kindOf(t reflect.Type, enum []string) string {
	switch {
	case enum != nil:
		return strings.Join(enum, " | ")
	case t == reflect.TypeFor[[]HostPort]():
		return "host:port, ..."
	case t == reflect.TypeFor[AdminAddr]():
		return "host:port | off"
	case t == reflect.TypeFor[StoreURL]():
		return "memory | URL"
	case t == reflect.TypeFor[Prefixes]():
		return "CIDR, ..."
	case t == reflect.TypeFor[Addresses]():
		return "address, address"
	case t == reflect.TypeFor[PortRange]():
		return "A-B"
	case t == reflect.TypeFor[time.Duration]():
		return "duration"
	case t == reflect.TypeFor[int]():
		return "number"
	}
	return "text"
}

// Load reads the environment, given as a map. The warnings name
// variables that look like Usher's and are not. Every mistake is reported, as
// one error that names the variable, its value and the remedy.
func Load(environ map[string]string) (cfg Config, warnings []string, err error) {
	vars := variables()
	byField := map[string]variable{}
	known := map[string]bool{}
	for _, v := range vars {
		byField[reflect.TypeFor[Config]().Field(v.index).Name] = v
		known[v.name] = true
	}
	var problems []error
	if err := env.ParseWithOptions(&cfg, env.Options{Environment: environ}); err != nil {
		var all env.AggregateError
		if !errors.As(err, &all) {
			return cfg, nil, err
		}
		for _, e := range all.Errors {
			problems = append(problems, readable(e, byField, environ))
		}
	}
	if len(problems) == 0 {
		problems = outOfRange(cfg, vars, environ)
	}
	if cfg.StoreDown == "admit" && cfg.LeaseLoss == "close" {
		problems = append(problems, errors.New("USHER_STORE_DOWN=admit: it breaks what USHER_LEASE_LOSS=close promises; leave one of them out"))
	}
	if cfg.GroupsFile != "" && cfg.UsersFile == "" {
		problems = append(problems, errors.New("USHER_GROUPS_FILE: nobody can prove a name without USHER_USERS_FILE; set that, too"))
	}
	for name := range environ {
		if strings.HasPrefix(name, "USHER_") && !known[name] {
			warnings = append(warnings, name)
		}
	}
	slices.Sort(warnings)
	cfg.ListenSet = environ["USHER_LISTEN"] != ""
	return cfg, warnings, errors.Join(problems...)
}

// readable turns an error of the env library, which names a field and a Go
// type, into one that names a variable.
func readable(err error, byField map[string]variable, environ map[string]string) error {
	var parse env.ParseError
	if !errors.As(err, &parse) {
		return err
	}
	v := byField[parse.Name]
	switch v.kind {
	case "duration":
		return v.problem(environ, "not a duration; write a number with its unit, such as 500ms, 10s or 2m")
	case "number":
		return v.problem(environ, "not a whole number")
	case "memory | URL": // the value may hold a password
		return fmt.Errorf("%s: %w", v.name, parse.Err)
	}
	return v.problem(environ, parse.Err.Error())
}

func (v variable) problem(environ map[string]string, what string) error {
	return fmt.Errorf("%s=%q: %s", v.name, environ[v.name], what)
}

// outOfRange checks what the tags enum, min and max say.
func outOfRange(cfg Config, vars []variable, environ map[string]string) (problems []error) {
	values := reflect.ValueOf(cfg)
	for _, v := range vars {
		switch value := values.Field(v.index).Interface().(type) {
		case time.Duration:
			if least, most := time.Duration(v.min), time.Duration(v.max); value < least || value > most {
				problems = append(problems, v.problem(environ,
					fmt.Sprintf("out of range; choose a duration from %s to %s", least, most)))
			}
		case int:
			if int64(value) < v.min || int64(value) > v.max {
				problems = append(problems, v.problem(environ,
					fmt.Sprintf("out of range; choose a number from %d to %d", v.min, v.max)))
			}
		case string:
			if v.enum != nil && !slices.Contains(v.enum, value) {
				problems = append(problems, v.problem(environ, "unknown value; choose one of "+v.kind))
			}
		}
	}
	return problems
}

// Environ turns the form of os.Environ into a map.
func Environ(environ []string) map[string]string {
	m := make(map[string]string, len(environ))
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok {
			m[name] = value
		}
	}
	return m
}
