#!/bin/sh
# relaydsockdcheck.sh - check script of relayd(8) for SOCKS servers.
#
# relayd calls it as "relaydsockdcheck.sh HOST", with an empty environment and the
# working directory /. For relayd, an exit code above 0 is up, and 0 is down.
#
# usher probe opens a session through the server to a listener on this machine and
# sends random bytes each way. It works with Usher, Dante and other SOCKS servers.

SOCKSPORT=1080              # port of the SOCKS servers
BINDIP=""                   # address of this machine that the servers can connect to;
                            # empty: the one from which this machine reaches them
PROBETIME=2s                # less than "timeout" in relayd.conf
USHER=/usr/local/bin/usher

UP=1
DOWN=0

case "${1:-}" in
"") exit $DOWN ;;
*:*) SERVER="[$1]:$SOCKSPORT" ;; # IPv6
*) SERVER="$1:$SOCKSPORT" ;;
esac

# Only success that says so is up. A program that is missing or crashes has an exit code
# above 0, which relayd would take for up.
if SAID=$("$USHER" probe --socks "$SERVER" --bind="$BINDIP" --timeout="$PROBETIME"); then
	case "$SAID" in
	"up: "*) exit $UP ;;
	esac
fi
exit $DOWN
