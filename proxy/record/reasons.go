package record

import (
	"iter"
	"maps"
	"slices"
)

// Explanation says in words why a session ended.
type Explanation struct {
	Why    string // goes on after "the session was refused: " or "the session ended: "
	Remedy string // what the operator can do; "": nothing is wrong
}

// Explain returns the words for a reason of End. ok is false for a reason of another
// version of Usher.
func Explain(reason string) (e Explanation, ok bool) {
	e, ok = explanations[reason]
	return e, ok
}

// Explanations returns the words for every reason.
func Explanations() iter.Seq2[string, Explanation] { return maps.All(explanations) }

// Reasons returns every reason, sorted.
func Reasons() []string { return slices.Sorted(maps.Keys(explanations)) }

// explanations has each reason of docs/observability.md.
var explanations = map[string]Explanation{
	"blocked":       {"no rule passes it, or a rule blocks it", "usher explain shows each rule that was asked and why it does not match; change the rules if the client should pass"},
	"limit":         {"a rule passes it, but the limit of the rule is full", "end a session that holds a slot, wait for one to end, or raise the limit in the rule"},
	"throttle":      {"a rule passes it, but as many sessions have begun as its rate allows", "wait for the next window of the rate, or raise session.throttle or session.state.throttle in the rule"},
	"throttle_keys": {"the rate of its rule counts too many other clients or users already", "raise USHER_THROTTLE_KEYS, or give Redis more memory (maxmemory)"},
	"method":        {"the client offers no authentication method that the rules allow", "give the client a user name and password, or allow the method in socksmethod"},
	"auth":          {"wrong user name or password", "check the password of the client, and the users file"},
	"auth_throttle": {"too many failed logins from this address", "wait a minute, and find out who sends wrong passwords; USHER_AUTH_FAILURES sets the bound"},
	"self":          {"the target is Usher itself", "check the proxy settings of the client: a proxy must not reach itself"},
	"peer":          {"BIND: another peer than the announced one connected", "check the address that the client announced for its peer"},
	"udp_announcement": {"a balancer hides the client, and the client announced no complete address for its datagrams",
		"list the networks of such clients in USHER_UDP_RELAY_CLIENTS"},

	"store_unavailable": {"the store did not answer in time", "check Redis and the way to it; usher status shows the last error"},
	"store_recovering":  {"the store is recovering: replicas report their sessions before new ones are admitted", "wait for a lease TTL; if it lasts, look for a replica that is not joined in usher status"},
	"store_mismatch":    {"the store serves replicas with other lease settings", "give all replicas the same USHER_LEASE_TTL and USHER_LEASE_LOSS"},

	"unresolved":       {"the name of the target has no address", "check the name, and the resolver of this machine"},
	"refused":          {"the target refused or reset the connection", "check that the target listens on that port"},
	"connect_timeout":  {"the target did not answer within timeout.connect", "check the way to the target, and packet filters before it"},
	"net_unreachable":  {"there is no route to the network of the target", "check the routes of this machine"},
	"host_unreachable": {"the target cannot be reached", "check the way to the target"},
	"no_external":      {"no external address has the family of the target, or the route has another source address", "add an address to external:"},
	"no_family":        {"this machine does not have the address family of the target", "give the machine an address of that family"},
	"denied_by_host":   {"a packet filter of this machine refused the connection", "check the packet filter on the machine of the replica"},
	"target":           {"the request names no address or no port", "check the client: its request names nothing to connect to"},
	"bind_timeout":     {"BIND: nobody connected within USHER_BIND_TIMEOUT", "check that the peer can reach the address that the client was told"},

	"sessions":        {"the replica runs as many sessions as it may", "add a replica, or raise USHER_MAX_SESSIONS and the limit on descriptors"},
	"connecting":      {"too many sessions of this client address are not connected yet", "look for targets that do not answer; a balancer that hides clients makes them one address"},
	"source_sessions": {"few places are free, and this client address has too many of the others", "end sessions of this client, add a replica, or raise USHER_MAX_SESSIONS"},
	"crowded":         {"too many clients were negotiating, and its source had the most", "look for a client that opens connections and sends no request; USHER_MAX_NEGOTIATING sets the bound"},
	"descriptors":     {"the process or the machine has no descriptor left", "raise the limit on descriptors (LimitNOFILE, ulimit -n)"},
	"local_ports":     {"no local port is free towards the target", "add external: addresses, or widen net.ipv4.ip_local_port_range"},
	"memory":          {"the system has no memory for the socket", "give the machine more memory, or lower USHER_MAX_SESSIONS"},
	"udp_ports":       {"no port of the range is free for an association", "widen USHER_UDP_PORTS or udp.portrange"},
	"udp_socket":      {"the system refused a UDP socket", "look at the error in the log line of the session"},

	"protocol":            {"the client sent something that is not valid SOCKS", "check the proxy settings of the client; the error says if it spoke HTTP or TLS"},
	"command":             {"Usher does not support the command of the request", "use CONNECT, BIND or UDP ASSOCIATE"},
	"negotiation_timeout": {"the client did not send its request within timeout.negotiate", "check the client and the way to it"},
	"proxy_header":        {"the PROXY header is missing, invalid or not allowed from this address", "compare the settings of the balancer with USHER_PROXY_PROTOCOL_FROM"},
	"client_gone":         {"the client closed the connection", ""},
	"no_greeting":         {"the client closed the connection without sending a byte", ""},

	"done":         {"both sides closed normally", ""},
	"idle":         {"no data moved for longer than the rule allows", "raise timeout.io in the rule if such sessions should live"},
	"client_error": {"the connection to the client broke", "check the way to the client"},
	"target_error": {"the connection to the target broke", "check the target and the way to it"},
	"buffered":     {"the kernel buffered too much for this session while memory was short", "give the machine more memory, or lower USHER_MAX_SESSIONS"},
	"lease_lost":   {"the session lost its slot, because the replica lost the store (USHER_LEASE_LOSS=close)", "check Redis and the way to it"},
	"drain":        {"the replica stops, and the drain was over", ""},
	"ended":        {"an operator has ended it", ""},
	"error":        {"another error", "look at the error in the log line of the session"},
}
