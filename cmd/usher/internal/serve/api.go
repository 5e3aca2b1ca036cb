package serve

import (
	"net/http"
	"time"

	"usher/cmd/usher/internal/build"
	"usher/cmd/usher/internal/overview"
	"usher/cmd/usher/internal/replicas"
	"usher/proxy/admin"
	"usher/proxy/admin/access"
	"usher/proxy/admin/api"
	"usher/proxy/admin/events"
	"usher/proxy/admin/peers"
	"usher/store/card"
	"usher/store/redisstore"
)

// newReplicas returns what knows the other replicas, nil if there can be none.
func (s *service) newReplicas() *replicas.Replicas {
	shared, ok := s.counting.Store.(*redisstore.Store)
	if !ok {
		return nil
	}
	return replicas.New(replicas.Options{
		Cards:     shared.Cards,
		Card:      card.Card{Replica: s.id, Name: string(s.cfg.Replica), Version: build.This().Version, Started: time.Now().UTC()},
		Advertise: replicas.Advertise{Wanted: string(s.cfg.AdminAdvertise), Listeners: s.monitor.Listeners()},
		TTL:       s.cfg.LeaseTTL,
		Members: func() (map[string]string, bool) {
			st := s.counting.Limiter.Status()
			return st.Replicas, st.Joined
		},
		Logger: s.log.Logger,
	})
}

// peers returns the other replicas.
func (s *service) peers() []peers.Peer {
	if s.replicas == nil {
		return nil
	}
	return s.replicas.Peers()
}

// peerAddress returns where other replicas reach this one.
func (s *service) peerAddress() string {
	if s.replicas == nil {
		return ""
	}
	return s.replicas.Address()
}

// api returns what tells about the cluster, and changes it.
func (s *service) api(status func() admin.Status) *admin.API {
	local := overview.New(overview.Options{
		ID: s.id, Name: string(s.cfg.Replica), Cluster: string(s.cfg.Cluster), LeaseTTL: s.cfg.LeaseTTL, Strict: s.cfg.LeaseLoss == "close", Admit: s.cfg.StoreDown == "admit",
		Address: s.peerAddress, Writing: s.cfg.Token() != nil,
		Server: s.proxy, Status: s.counting.Limiter.Status, Highest: s.counting.Limiter.Highest, Snapshot: status,
	})
	all := peers.New(peers.Options{Local: local, Peers: s.peers, Ask: s.peerClient})
	s.events = events.New(all)
	operator := operator{service: s, local: local}
	read := api.Handler{ID: s.id, Local: local, Cluster: all, Events: s.events}
	write := api.WriteHandler{
		ID: s.id, Local: operator, Cluster: peers.Writer{Cluster: all, Local: operator, Name: string(s.cfg.Replica)},
		Who: access.Who, Rules: all.Rules, Logger: s.log.Logger,
	}
	return &admin.API{Cluster: all, Read: read.Routes(), Write: write.Routes()}
}

// peerClient returns a client that asks one other replica.
func (s *service) peerClient(p peers.Peer) *api.Client {
	c := &api.Client{Address: p.Address, Local: true, ID: p.ID}
	if token := s.cfg.Token(); token != nil {
		c.Authorize = func(r *http.Request) {
			if text, err := token(); err == nil { // else the peer refuses the request, and says so
				access.Sign(r, text, p.Address, time.Now())
			}
		}
	}
	return c
}
