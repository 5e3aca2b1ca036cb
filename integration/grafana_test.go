package integration

import (
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/bargauge"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	grafana "github.com/grafana/grafana-foundation-sdk/go/dashboard"
	promquery "github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// grafanaAccepts returns what is wrong with a dashboard by Grafana's own schema: fields
// and values that it does not know, and those that are missing.
func grafanaAccepts(text string) error {
	known := cog.NewRuntime()
	known.RegisterPanelcfgVariant(bargauge.VariantConfig())
	known.RegisterPanelcfgVariant(stat.VariantConfig())
	known.RegisterPanelcfgVariant(table.VariantConfig())
	known.RegisterPanelcfgVariant(timeseries.VariantConfig())
	known.RegisterDataqueryVariant(promquery.VariantConfig())
	var d grafana.Dashboard //nolint:staticcheck // dashboard.json has the schema that every Grafana can load
	// It returns an empty list of errors, which is not nil, if there is none.
	if err := d.UnmarshalJSONStrict([]byte(text)); err != nil && err.Error() != "" {
		return err
	}
	return d.Validate()
}

// The dashboard obeys Grafana's schema, and the schema finds mistakes.
func TestDashboardObeysGrafana(t *testing.T) {
	text := readFile(t, "../deploy/monitoring/dashboard.json")
	if err := grafanaAccepts(text); err != nil {
		t.Error(err)
	}
	for right, wrong := range map[string]string{
		`"gridPos"`:             `"gridpos"`,
		`"legendFormat"`:        `"legend"`,
		`"colorMode"`:           `"color"`,
		`"lineWidth": 2`:        `"lineWidth": "thick"`,
		`"mode": "absolute"`:    `"mode": 1`,
		`"displayMode": "list"`: `"displayMode": ["list"]`,
	} {
		if mistaken := strings.Replace(text, right, wrong, 1); mistaken == text || grafanaAccepts(mistaken) == nil {
			t.Errorf("nobody notices %s instead of %s", wrong, right)
		}
	}
}
