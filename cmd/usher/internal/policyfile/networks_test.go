package policyfile

import (
	"net/netip"
	"strings"
	"testing"

	"usher/cmd/usher/internal/settings"
	"usher/proxy/rules"
)

func TestBroadNetworks(t *testing.T) {
	type want struct {
		severity rules.Severity
		parts    string // of the message; "" is no finding
	}
	for network, want := range map[string]want{
		"0.0.0.0/0":       {rules.Danger, "every host in 0.0.0.0/0, the whole Internet, can "},
		"::/0":            {rules.Danger, "every host in ::/0, the whole Internet, can "},
		"128.0.0.0/1":     {rules.Warning, "every host in 128.0.0.0/1 can "},
		"203.0.0.0/15":    {rules.Warning, "every host in 203.0.0.0/15 can "},
		"8.0.0.0/6":       {rules.Warning, "every host in 8.0.0.0/6 can "}, // has 10.0.0.0/8 in it
		"2000::/3":        {rules.Warning, "every host in 2000::/3 can "},
		"203.0.0.0/16":    {},
		"192.0.2.10/32":   {},
		"10.0.0.0/8":      {},
		"172.16.0.0/12":   {},
		"127.0.0.0/8":     {},
		"fd00::/8":        {},
		"2001:db8::/32":   {},
		"2001:db8::1/128": {},
	} {
		prefixes := settings.Prefixes{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix(network)}
		for variable, cfg := range map[string]settings.Config{
			"USHER_PROXY_PROTOCOL_FROM": {ProxyFrom: prefixes},
			"USHER_UDP_RELAY_FROM":      {UDPRelayFrom: prefixes},
			"USHER_UDP_RELAY_CLIENTS":   {UDPRelayClients: prefixes},
		} {
			_, found, err := Load(cfg)
			if err != nil {
				t.Fatal(err)
			}
			var got []rules.Diagnostic
			for _, d := range found {
				if strings.Contains(d.Message, "every host in") {
					got = append(got, d)
				}
			}
			switch {
			case want.parts == "" && len(got) == 0:
			case want.parts != "" && len(got) == 1 && got[0].Severity == want.severity &&
				strings.HasPrefix(got[0].Message, variable+": ") && strings.Contains(got[0].Message, want.parts):
			default:
				t.Errorf("%s=%s: %v, want %q", variable, network, got, want.parts)
			}
		}
	}
}
