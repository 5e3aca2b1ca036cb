package udp

import (
	"errors"
	"syscall"

	"usher/proxy/decide"
)

// drop is why a datagram went no further.
type drop int

const (
	relayed drop = iota // it did not: it was relayed
	dropForeign
	dropMalformed
	dropFragment
	dropTarget
	dropSelf
	dropBlocked
	dropReplyBlocked
	dropUnsolicited
	dropUnresolved
	dropWaiting
	dropNoExternal
	dropTooLong
	dropLease
	dropSystem
	dropKinds

	unknownName // it waits for a name
)

// dropReasons are the words for drops in metrics and log lines.
var dropReasons = [dropKinds]string{
	dropForeign: "foreign", dropMalformed: "malformed", dropFragment: "fragment", dropTarget: "target",
	dropSelf: "self", dropBlocked: "blocked", dropReplyBlocked: "reply_blocked", dropUnsolicited: "unsolicited",
	dropUnresolved: "unresolved", dropWaiting: "waiting", dropNoExternal: "no_external", dropTooLong: "too_long",
	dropLease: "lease_lost", dropSystem: "system",
}

// dropOf returns what an error of a decision or of a socket means; nil is
// relayed.
func dropOf(err error) drop {
	switch {
	case err == nil:
		return relayed
	case errors.Is(err, errUnknownName):
		return unknownName
	case errors.Is(err, decide.ErrTarget):
		return dropTarget
	case errors.Is(err, decide.ErrUnresolved):
		return dropUnresolved
	case errors.Is(err, decide.ErrBlocked):
		return dropBlocked
	case errors.Is(err, decide.ErrSelf):
		return dropSelf
	case errors.Is(err, decide.ErrNoExternal), errors.Is(err, decide.ErrNoRoute):
		return dropNoExternal
	case errors.Is(err, ErrMayWrite):
		return dropLease
	case errors.Is(err, syscall.EMSGSIZE):
		return dropTooLong
	}
	return dropSystem
}
