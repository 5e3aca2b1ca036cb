package udp

import (
	"errors"
	"syscall"

	"usher/proxy/decide"
)

// outcome is the result for a datagram: relayed, or dropped for a reason.
type outcome int

const (
	relayed outcome = iota
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

	needsName // the decision needs a name that is not known yet
	deferred  // a goroutine waits for that name, and counts the outcome
)

// dropReasons are the words for reasons in metrics and log lines.
var dropReasons = [dropKinds]string{
	dropForeign: "foreign", dropMalformed: "malformed", dropFragment: "fragment", dropTarget: "target",
	dropSelf: "self", dropBlocked: "blocked", dropReplyBlocked: "reply_blocked", dropUnsolicited: "unsolicited",
	dropUnresolved: "unresolved", dropWaiting: "waiting", dropNoExternal: "no_external", dropTooLong: "too_long",
	dropLease: "lease_lost", dropSystem: "system",
}

// outcomeOf returns what an error of a decision or of a socket means. nil means
// relayed.
func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return relayed
	case errors.Is(err, errUnknownName):
		return needsName
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
