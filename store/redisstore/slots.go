package redisstore

import (
	"errors"
	"net"
	"strconv"
)

// slotRange are slots of a Redis Cluster and the address of their primary.
type slotRange struct {
	first, last int64
	primary     string
}

var errSlots = errors.New("the answer to CLUSTER SLOTS is malformed")

// readSlots reads the answer of the node at asked to CLUSTER SLOTS, as the
// command is documented: a range is its first slot, its last slot, then its
// nodes, the primary first. Ranges without a node that can be reached are left
// out.
func readSlots(reply []any, asked string) (ranges []slotRange, err error) {
	for _, item := range reply {
		fields, _ := item.([]any)
		if len(fields) < 2 {
			return nil, errSlots
		}
		first, ok1 := fields[0].(int64)
		last, ok2 := fields[1].(int64)
		if !ok1 || !ok2 {
			return nil, errSlots
		}
		if len(fields) == 2 {
			continue
		}
		primary, err := readNode(fields[2], asked)
		if err != nil {
			return nil, err
		}
		if primary != "" {
			ranges = append(ranges, slotRange{first, last, primary})
		}
	}
	return ranges, nil
}

// readNode returns the address of a node: its preferred endpoint, port, id and,
// in newer servers, other endpoints. The preferred endpoint is an IP address, a
// host name or null (cluster-preferred-endpoint-type); it is empty for a node
// that does not know its own address, and "?" for one without a host name.
func readNode(node any, asked string) (string, error) {
	fields, _ := node.([]any)
	if len(fields) < 2 {
		return "", errSlots
	}
	port, ok := fields[1].(int64)
	if !ok || port < 0 || port > 65535 {
		return "", errSlots
	}
	if port == 0 { // it speaks TLS alone, or not at all
		return "", nil
	}
	host, ok := fields[0].(string)
	if !ok && fields[0] != nil {
		return "", errSlots
	}
	if host == "?" {
		host = ""
		if len(fields) > 3 {
			host = otherEndpoint(fields[3], "ip")
		}
	}
	if host == "" { // by the documentation, the host that was asked
		host, _, _ = net.SplitHostPort(asked)
	}
	return net.JoinHostPort(host, strconv.FormatInt(port, 10)), nil
}

// otherEndpoint returns a field of a node's other endpoints: a map in RESP3, a
// list of names and values in RESP2. It is "" if there is none.
func otherEndpoint(metadata any, name string) string {
	switch fields := metadata.(type) {
	case map[any]any:
		value, _ := fields[name].(string)
		return value
	case []any:
		for i := 0; i+1 < len(fields); i += 2 {
			if fields[i] == name {
				value, _ := fields[i+1].(string)
				return value
			}
		}
	}
	return ""
}
