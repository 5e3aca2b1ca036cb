package rules

// choice is one word that a keyword takes as a value.
type choice struct {
	name   string
	value  int
	accept string // accepted with this warning: why it does nothing here, and after "; " the remedy
	refuse string // refused: why, and after "; " the remedy
	// instead is the warning for a value that Usher takes for another one: which one,
	// and after "; " the remedy.
	instead string
}

var (
	methodChoices = []choice{
		{name: "none", value: int(None)},
		{name: "username", value: int(Username)},
		{name: "pam.username", value: int(Username), instead: asUsername},
		{name: "pam", value: int(Username), instead: asUsername},
		{name: "pam.any", value: int(Username), instead: "Usher does not support PAM and asks every client for a name and a password of USHER_USERS_FILE, " +
			"also those whom PAM would accept by their address; write username"},
		{name: "bsdauth", value: int(Username), instead: asUsername},
		{name: "rfc931", refuse: noMethod},
		{name: "pam.address", refuse: noMethod},
		{name: "gssapi", refuse: noMethod},
		{name: "ldap.auth", refuse: noMethod},
	}
	clientMethodChoices = []choice{
		{name: "none"},
		{name: "username", refuse: "a client has no name before it negotiates; use socksmethod: username"},
		{name: "rfc931", refuse: noClientMethod},
		{name: "pam", refuse: noClientMethod},
		{name: "pam.any", refuse: noClientMethod},
		{name: "pam.address", refuse: noClientMethod},
	}
	commandChoices = []choice{
		{name: "connect", value: int(Connect)},
		{name: "bind", value: int(Bind)},
		{name: "udpassociate", value: int(UDPAssociate)},
		{name: "bindreply", value: int(BindReply)},
		{name: "udpreply", value: int(UDPReply)},
	}
	protocolChoices = []choice{
		{name: "tcp", value: int(tcpCommands)},
		{name: "udp", value: int(udpCommands)},
	}
	proxyProtocolChoices = []choice{
		{name: "socks_v4", value: int(socks4)},
		{name: "socks_v5", value: int(socks5)},
		{name: "http", value: int(otherProxy), accept: notServed},
		{name: "http_v1.0", value: int(otherProxy), accept: notServed},
		{name: "upnp", value: int(otherProxy), accept: notServed},
	}
	logChoices = []choice{
		{name: "connect", value: logConnect},
		{name: "disconnect", value: logDisconnect},
		{name: "data", value: logData, accept: noLogDetail},
		{name: "error", value: logError},
		{name: "ioop", value: logIOOp, accept: noLogDetail},
		{name: "iooperation", value: logIOOp, accept: noLogDetail},
		{name: "tcpinfo", value: logTCPInfo, accept: noLogDetail},
	}
	yesNoChoices    = []choice{{name: "no"}, {name: "yes", value: 1}}
	rotationChoices = []choice{
		{name: "none", value: int(RotationNone)},
		{name: "same-same", value: int(RotationSameSame)},
		{name: "route", value: int(RotationRoute)},
	}
	familyChoices = []choice{
		{name: "ipv4", value: int(IPv4)},
		{name: "ipv6", value: int(IPv6)},
	}
	hostsAccessChoices = []choice{
		{name: "no"},
		{name: "yes", refuse: noLibwrap},
	}
	compatibilityChoices = []choice{
		{name: "sameport", accept: "the system chooses the ports to connect from; " + removeWord},
		{name: "reuseaddr", accept: "it belongs to the bind extension, which Usher does not support; " + removeWord},
		{name: "draft-5.05", refuse: "Usher speaks the protocol of RFC 1928 only; " + removeWord},
	}
	stateKeyChoices = []choice{
		{name: "from", value: int(KeyFrom)},
		{name: "user", value: int(KeyUser)},
		{name: "hostid", refuse: noHostID},
	}
	clientStateKeyChoices = []choice{
		{name: "from", value: int(KeyFrom)},
		{name: "user", refuse: "a client has no name before it negotiates; write from, or count users in a socks-rule"},
		{name: "hostid", refuse: noHostID},
	}
	modeChoices = []choice{
		{name: "enforce"},
		{name: "report", value: 1},
	}
	extensionChoices = []choice{{name: "bind"}}
	resolveChoices   = []choice{
		{name: "udp", accept: "the resolver chooses its transport; remove the line"},
		{name: "tcp", accept: "the resolver chooses its transport; remove the line"},
		{name: "fake", refuse: "Usher always resolves names to compare them with addresses; remove the line"},
	}
)

const (
	removeWord     = "remove it, and the line if nothing else is in it"
	noMethod       = "Usher does not support this authentication method; write socksmethod: username and set USHER_USERS_FILE to a file with names and passwords"
	asUsername     = "Usher asks for a name and a password of USHER_USERS_FILE instead; write username"
	noClientMethod = "Usher does not support this authentication method; write the permitted addresses in from: and clientmethod: none, or use socksmethod: username"
	notServed      = "Usher serves SOCKS clients only; remove it, and the whole rule if it names nothing else"
	noLogDetail    = "Usher logs the start and the end of a session, never what it transfers; " + removeWord
	noHostID       = "Usher does not read host ids; write from to count by the client's address"
)
