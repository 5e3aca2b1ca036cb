package serve

import (
	"usher/cmd/usher/internal/overview"
	"usher/proxy"
	"usher/proxy/admin"
	"usher/proxy/admin/api"
	"usher/proxy/record"
)

// sessions adds what the server does not tell yet.
type sessions struct{ *proxy.Server }

func (sessions) Running() []record.Running { return nil }

func (sessions) Refusals() []record.End { return nil }

// api returns what answers the API.
func (s *service) api(status func() admin.Status) *api.Handler {
	local := overview.New(overview.Options{
		ID: s.id, Cluster: string(s.cfg.Cluster), LeaseTTL: s.cfg.LeaseTTL, Strict: s.cfg.LeaseLoss == "close",
		Server: sessions{s.proxy}, Status: s.counting.Limiter.Status, Snapshot: status,
	})
	return &api.Handler{Local: local, Cluster: local}
}
