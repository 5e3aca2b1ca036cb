// Package settings reads the configuration of usher from the environment. The
// tags of Config describe each variable once, for parsing, checks and help.
package settings

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Config holds every setting. Its tags are the only description of a variable:
// parsing, checks, help and man page read them.
//
//	env, envDefault   name and default
//	enum, min, max    accepted values
//	help              its meaning
type Config struct {
	Listen          []HostPort    `env:"USHER_LISTEN" envDefault:"127.0.0.1:1080" help:"Addresses for SOCKS clients, separated by commas. 0.0.0.0:1080 is every IPv4 address, [::]:1080 every IPv6 address, :1080 both. If set, it overrides the internal: lines of the rule file."`
	AdminListen     AdminAddr     `env:"USHER_ADMIN_LISTEN" envDefault:"127.0.0.1:9090" help:"Address for health checks, metrics and status over HTTP. Keep it private. USHER_ADMIN_TOKEN protects it. off disables it."`
	AgentListen     AdminAddr     `env:"USHER_AGENT_LISTEN" envDefault:"off" help:"Address for the agent checks of HAProxy: ready, draining or down, and a weight that falls as descriptors and the places of USHER_MAX_SESSIONS are used up. Keep it private. off disables it."`
	AdminHosts      HostNames     `env:"USHER_ADMIN_HOSTS" help:"Names under which the admin listener may be asked, separated by commas, such as usher.monitoring.example. IP addresses, localhost and the host name of the machine always work. Requests for other names are refused with 421, so that a web page cannot read the status through a name that points here."`
	AdminAdvertise  HostPort      `env:"USHER_ADMIN_ADVERTISE" help:"Where the other replicas reach the admin listener, as host:port. Each replica asks the others for their sessions, so that any of them answers for the cluster. Unset: the address by which this replica reaches Redis, and the port of the admin listener. If the admin listener is on a loopback address and Redis is on another machine, the others do not reach it."`
	AdminToken      Token         `env:"USHER_ADMIN_TOKEN" help:"The token of the admin listener, 16 to 512 printable ASCII characters without blanks. With it, requests need it (Authorization: Bearer TOKEN), except those over loopback and those for /healthz and /readyz, and sessions can be ended and replicas drained over HTTP. Without it, reading is free and nothing can be changed. Must be the same on all replicas."`
	AdminTokenFile  string        `env:"USHER_ADMIN_TOKEN_FILE" help:"A file with the token on one line, instead of USHER_ADMIN_TOKEN. Usher reads it for each request that needs it, so that it can change while Usher runs."`
	AdminPprof      string        `env:"USHER_ADMIN_PPROF" envDefault:"off" enum:"off,on" help:"on: the admin listener answers /debug/pprof/ with profiles of the process, to loopback addresses and with the token."`
	RuleFile        string        `env:"USHER_CONFIG" help:"The rule file, or store: the rules that usher apply has published for the cluster. Without it, built-in rules admit clients on loopback addresses and nobody else."`
	RuleKey         string        `env:"USHER_CONFIG_KEY" help:"With USHER_CONFIG=store: a file with the public key from usher keygen. Usher then takes only rules that usher apply --key has signed with its private key. Several keys may follow each other. Without it, anybody who can write to Redis can replace the rules."`
	RuleCache       string        `env:"USHER_CONFIG_CACHE" help:"With USHER_CONFIG=store: a file in which Usher keeps the last rules that it took. It starts with them while the store is away, and never takes older ones."`
	UsersFile       string        `env:"USHER_USERS_FILE" help:"User names and password hashes in htpasswd format. With it, and without a socksmethod: line, clients must log in."`
	GroupsFile      string        `env:"USHER_GROUPS_FILE" help:"Members of the groups that group: in a rule names, in htgroup format. Requires USHER_USERS_FILE."`
	Store           StoreURL      `env:"USHER_STORE" envDefault:"memory" help:"Where sessions are counted: memory for this process alone, or the URL of a Redis that all replicas share, such as redis://host:6379/0. docs/redis.md lists the URLs and their options."`
	Cluster         ClusterName   `env:"USHER_CLUSTER" envDefault:"default" help:"Name of this set of replicas. Sets with different names can share a Redis. They are counted separately. 1 to 64 letters, digits, dots, hyphens and underscores."`
	Replica         ReplicaName   `env:"USHER_REPLICA" help:"Name of this replica in JSON log lines, status and metrics: 1 to 64 letters, digits, dots, hyphens and underscores. Unset: the host name and the process id, such as web1-4711."`
	StoreUser       string        `env:"USHER_STORE_USER_FILE" help:"A file with the user name for Redis, on one line. Name no user in the URL then. Usher reads it for each connection."`
	StorePass       string        `env:"USHER_STORE_PASSWORD_FILE" help:"A file with the password for Redis, on one line. Put no password into the URL then. Usher reads it for each connection, so that it can change while Usher runs."`
	SentinelUser    string        `env:"USHER_SENTINEL_USER_FILE" help:"Like USHER_STORE_USER_FILE, for the login at the sentinels."`
	SentinelPass    string        `env:"USHER_SENTINEL_PASSWORD_FILE" help:"Like USHER_STORE_PASSWORD_FILE, for the login at the sentinels."`
	LeaseTTL        time.Duration `env:"USHER_LEASE_TTL" envDefault:"10s" min:"1s" max:"10m" help:"How long a dead replica keeps its slots, from 1s to 10m. Must be the same on all replicas. Use at least 50 times the typical worst-case round trip to Redis."`
	LeaseLoss       string        `env:"USHER_LEASE_LOSS" envDefault:"keep" enum:"keep,close" help:"What happens to limited sessions on a replica that loses contact with the store. keep: they continue. close: they end before another replica can be given their slots. Must be the same on all replicas."`
	StoreWait       time.Duration `env:"USHER_STORE_WAIT" envDefault:"3s" min:"0s" max:"1m" help:"How long a new limited session waits for a store that is slow or unreachable, up to 1m. While the store answers, a single request always gets at least a tenth of the lease TTL."`
	StoreDown       string        `env:"USHER_STORE_DOWN" envDefault:"refuse" enum:"refuse,admit" help:"What happens to a new limited session after that wait. refuse: it is refused. admit: this replica admits up to the limit by its own count. admit requires USHER_LEASE_LOSS=keep."`
	ThrottleKeys    int           `env:"USHER_THROTTLE_KEYS" envDefault:"100000" min:"0" max:"1000000000" help:"Maximum number of client addresses or users that session.state.throttle of one rule may start to count in one window of its rate. Above it, sessions of other addresses or users are refused until the window is over. Redis keeps at most twice as many, at 250 bytes each. 0: no bound. Use the same on all replicas."`
	ProxyFrom       Prefixes      `env:"USHER_PROXY_PROTOCOL_FROM" help:"Networks of balancers that send a PROXY header (version 1 or 2), separated by commas. Connections from these networks must send the header. Other connections must not. Every host in these networks can claim any client address: name only the balancers' own addresses."`
	Sessions        int           `env:"USHER_MAX_SESSIONS" envDefault:"0" min:"0" max:"10000000" help:"Maximum number of sessions that have sent their request. UDP ASSOCIATE counts twice, BIND twice until its peer has come, and CONNECT to a name three times until it is connected. Above it, new requests are refused with reply 1. A client address (IPv6: a /64) may have as many sessions that are not connected yet as there are free places; its further requests are refused, too. The same is true of all its sessions while less than an eighth of the places is free. 0: computed from descriptors and memory, as docs/deploy.md says."`
	Negotiating     int           `env:"USHER_MAX_NEGOTIATING" envDefault:"0" min:"0" max:"10000000" help:"Maximum number of clients that have not sent their complete request. Above it, Usher closes a connection of the client address (IPv6: a /64) that has the most of them. 0: a quarter of the descriptors that the process may open, 16384 at most, less if memory is short."`
	AuthFailures    int           `env:"USHER_AUTH_FAILURES" envDefault:"10" min:"0" max:"1000000" help:"Wrong passwords for one user that a client address (IPv6: a /64) may send in a minute. After that, its logins as that user are rejected for a minute without checking the password. After ten times as many for all users together, all logins from the address are rejected. 0: no bound. Use 0 if all clients share one address."`
	BindTimeout     time.Duration `env:"USHER_BIND_TIMEOUT" envDefault:"3m" min:"1s" max:"24h" help:"How long a BIND request waits for its peer, from 1s to 24h."`
	UDPAdvertise    Addresses     `env:"USHER_UDP_ADVERTISE" help:"The address that clients are told to send datagrams to: at most one IPv4 and one IPv6 address, separated by a comma. It must be the address of this replica, never that of a balancer. Unset: the address on which the client's connection arrived."`
	UDPPorts        PortRange     `env:"USHER_UDP_PORTS" help:"The ports that clients are told to send datagrams to, such as 20000-20999. Each association uses one. udp.portrange in a rule overrides it. Unset: the system chooses."`
	UDPRelayFrom    Prefixes      `env:"USHER_UDP_RELAY_FROM" help:"Networks of balancers that hide the client's address and send no PROXY header, such as relayd, separated by commas. docs/udp-and-bind.md says what this allows."`
	UDPRelayClients Prefixes      `env:"USHER_UDP_RELAY_CLIENTS" help:"Networks of clients behind USHER_UDP_RELAY_FROM, separated by commas. If such a client announces no complete address for its datagrams, the first datagram from these networks fixes it. Unset: such a client gets no UDP association."`
	UDPFollow       time.Duration `env:"USHER_UDP_FOLLOW" envDefault:"10s" min:"0s" max:"24h" help:"How long a client must send no datagram before Usher accepts another port of its address instead, up to 24h. A NAT can change the port. It never changes for clients that announced their port, and for clients behind USHER_UDP_RELAY_FROM. 0s: it never changes. docs/udp-and-bind.md says what this allows."`
	DrainGrace      time.Duration `env:"USHER_DRAIN_GRACE" envDefault:"3s" min:"0s" max:"10m" help:"After SIGTERM: how long /readyz answers 503 while clients are still accepted, up to 10m. Use at least the balancer's check interval times the number of failed checks that it waits for."`
	DrainTimeout    time.Duration `env:"USHER_DRAIN_TIMEOUT" envDefault:"30s" min:"0s" max:"24h" help:"After the grace: how long running sessions may continue, up to 24h. Then they are cut."`
	UpgradeTimeout  time.Duration `env:"USHER_UPGRADE_TIMEOUT" envDefault:"0s" min:"0s" max:"1h" help:"How long an upgrade in place waits for the new process to be ready. Then the old one goes on. 0: twice the lease TTL and 30 seconds."`
	LogFormat       string        `env:"USHER_LOG_FORMAT" envDefault:"auto" enum:"auto,text,json" help:"text, json, or auto: text on a terminal and JSON elsewhere."`
	LogLevel        string        `env:"USHER_LOG_LEVEL" envDefault:"info" enum:"debug,info,warn,error" help:"Lowest level that is logged: debug, info, warn or error."`
	LogBudget       int           `env:"USHER_LOG_BUDGET" envDefault:"10" min:"0" max:"1000000" help:"Lines about refused sessions that are logged per second, for each reason and client address (IPv6: a /64). A burst may have ten times as many. Usher drops the lines above that, and logs their number every 10 seconds. 0: no bound."`
	LogSessions     int           `env:"USHER_LOG_SESSIONS" envDefault:"500" min:"0" max:"1000000" help:"Lines about passed sessions that are logged per second, for each client address (IPv6: a /64). A burst may have ten times as many. Usher drops the lines above that, and logs their number and their bytes every 10 seconds. 0: no bound."`
	Accounting      string        `env:"USHER_ACCOUNTING" help:"A file, or stdout, to which Usher appends one JSON object for each session that ended or was refused, apart from the log. docs/accounting.md describes it. Unset: none."`

	ListenSet bool // USHER_LISTEN was given
}

// FromStore is the value of USHER_CONFIG for rules that are published in the store.
const FromStore = "store"

// Published reports whether the rules come from the store.
func (c Config) Published() bool { return c.RuleFile == FromStore }

// misplacedRules returns the mistakes of settings that contradict the source of the rules.
func (c Config) misplacedRules() (problems []error) {
	if c.Published() && c.Store == Memory {
		problems = append(problems, errors.New("USHER_CONFIG=store needs a Redis to read the rules from; set USHER_STORE to its URL (for a file of that name write ./store)"))
	}
	if !c.Published() && c.RuleKey+c.RuleCache != "" {
		problems = append(problems, errors.New("USHER_CONFIG_KEY and USHER_CONFIG_CACHE are for rules from the store; set USHER_CONFIG=store, or remove them"))
	}
	return problems
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

// mustDuration panics on a malformed tag; every test would show it.
func mustDuration(tag string) int64 {
	d, err := time.ParseDuration(tag)
	if err != nil {
		panic(err)
	}
	return int64(d)
}

// mustNumber panics on a malformed tag.
func mustNumber(tag string) int64 {
	n, err := strconv.ParseInt(tag, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// kindOf names the form of a value for the help.
func kindOf(t reflect.Type, enum []string) string {
	switch {
	case enum != nil:
		return strings.Join(enum, " | ")
	case t == reflect.TypeFor[[]HostPort]():
		return "host:port, ..."
	case t == reflect.TypeFor[AdminAddr]():
		return "host:port | off"
	case t == reflect.TypeFor[HostPort]():
		return "host:port"
	case t == reflect.TypeFor[Token]():
		return "secret"
	case t == reflect.TypeFor[StoreURL]():
		return "memory | URL"
	case t == reflect.TypeFor[Prefixes]():
		return "CIDR, ..."
	case t == reflect.TypeFor[HostNames]():
		return "name, ..."
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

// Load reads the configuration from environ. The warnings are the names of
// unknown variables that begin with USHER_. The error joins all mistakes; each
// names the variable, its value (unless it may hold a password) and the remedy.
func Load(environ map[string]string) (cfg Config, warnings []string, err error) {
	vars := variables()
	byField := map[string]variable{}
	known := map[string]bool{}
	for _, v := range vars {
		byField[reflect.TypeFor[Config]().Field(v.index).Name] = v
		known[v.name] = true
	}
	environ, problems := withoutQuoted(environ, vars)
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
		problems = append(problems, errors.New("USHER_STORE_DOWN=admit contradicts USHER_LEASE_LOSS=close; remove one of them"))
	}
	if secrets := cfg.StoreUser + cfg.StorePass + cfg.SentinelUser + cfg.SentinelPass; secrets != "" && cfg.Store == Memory {
		problems = append(problems, errors.New("USHER_STORE_..._FILE and USHER_SENTINEL_..._FILE need a Redis; set USHER_STORE to its URL"))
	}
	problems = append(problems, cfg.misplacedRules()...)
	if token := cfg.Token(); token != nil {
		if _, err := token(); err != nil {
			problems = append(problems, err)
		}
	}
	if cfg.GroupsFile != "" && cfg.UsersFile == "" {
		problems = append(problems, errors.New("USHER_GROUPS_FILE needs USHER_USERS_FILE, as only users who log in can be in a group; set both"))
	}
	for name, value := range environ {
		if strings.HasPrefix(name, "USHER_") && !known[name] && !isServiceLink(name, value) {
			warnings = append(warnings, name)
		}
	}
	slices.Sort(warnings)
	cfg.ListenSet = environ["USHER_LISTEN"] != ""
	cfg.Replica = cmp.Or(cfg.Replica, defaultReplica())
	return cfg, warnings, errors.Join(problems...)
}

// serviceLink matches the variables that Kubernetes sets in each container for a
// Service whose name is usher or begins with usher-, such as USHER_SERVICE_HOST.
var serviceLink = regexp.MustCompile(`^USHER_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)$`)

// isServiceLink reports whether Kubernetes has set a variable. USHER_PORT is one of
// those if it is a URL; somebody may have meant USHER_PORT=1080 for Usher.
func isServiceLink(name, value string) bool {
	return serviceLink.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

// UpgradeBound returns how long an upgrade in place waits for the new process. The
// default is longer than a new process takes to be ready if the store does not answer.
func (cfg Config) UpgradeBound() time.Duration {
	return cmp.Or(cfg.UpgradeTimeout, 2*cfg.LeaseTTL+30*time.Second)
}

// withoutQuoted returns environ without Usher's values in quotes, each of which
// is a mistake: some readers of env files keep the quotation marks, others do
// not, and replicas would differ in their settings. The error does not show the
// value, as it may hold a password.
func withoutQuoted(environ map[string]string, vars []variable) (map[string]string, []error) {
	environ = maps.Clone(environ)
	var problems []error
	for _, v := range vars {
		if value := environ[v.name]; strings.Trim(value, `"'`) != value {
			problems = append(problems, fmt.Errorf("%s: the value begins or ends with a quotation mark; "+
				"remove it, as what reads an env file or a manifest may keep it", v.name))
			delete(environ, v.name)
		}
	}
	return environ, problems
}

// readable turns an error of the env library, which names a Go field and type,
// into one that names the variable.
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
	case "memory | URL", "secret": // the value may hold a password
		return fmt.Errorf("%s: %w", v.name, parse.Err)
	}
	return v.problem(environ, parse.Err.Error())
}

func (v variable) problem(environ map[string]string, what string) error {
	return fmt.Errorf("%s=%q: %s", v.name, environ[v.name], what)
}

// outOfRange checks values against the tags enum, min and max.
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

// Environ turns the result of os.Environ into a map. White space around the
// values of Usher's variables is dropped, such as the newline that echo leaves in
// a secret.
func Environ(environ []string) map[string]string {
	m := make(map[string]string, len(environ))
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok {
			if strings.HasPrefix(name, "USHER_") {
				value = strings.TrimSpace(value)
			}
			m[name] = value
		}
	}
	return m
}
