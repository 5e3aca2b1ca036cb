package redisstore_test

import (
	"crypto/rand"
	"fmt"
	"slices"
	"testing"
	"time"

	"usher/store/card"
	"usher/store/redisstore/redistest"
)

// showing runs each clause of card.Conn against a deployment.
func showing(t *testing.T, url string) {
	s := open(t, url, "test-"+rand.Text())
	defer s.Close()
	c, err := s.Cards(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	show := func(replica, name string) string {
		t.Helper()
		list, err := c.Show(t.Context(), card.Card{Replica: replica, Name: name, Address: "192.0.2.1:9090", Started: time.Unix(1700000000, 0).UTC()})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, one := range list {
			names = append(names, one.Name)
			if one.Age < 0 || one.Age > time.Hour || one.Address != "192.0.2.1:9090" || one.Started.Unix() != 1700000000 {
				t.Errorf("%+v", one)
			}
		}
		slices.Sort(names)
		return fmt.Sprint(names)
	}
	if got := show("a", "web1"); got != "[web1]" {
		t.Errorf("the first card: %s", got)
	}
	if got := show("b", "web2"); got != "[web1 web2]" {
		t.Errorf("the second card: %s", got)
	}
	if got := show("a", "web1, again"); got != "[web1, again web2]" {
		t.Errorf("a newer card: %s", got)
	}
	if err := c.Withdraw(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	if got := show("a", "web1"); got != "[web1]" {
		t.Errorf("a card was withdrawn: %s", got)
	}
	if c.LocalAddr() == nil {
		t.Error("no local address")
	}
}

func TestShowing(t *testing.T) { showing(t, redistest.Start(t).URL()) }

// Cards that are old or none of Usher's neither stay nor harm.
func TestCardsAreForgotten(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server.URL(), "default")
	defer s.Close()
	c, err := s.Cards(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	key, redis := "usher:{default:0}:c", server.Client()
	old := time.Now().Add(-card.Keep - time.Minute).UnixMilli()
	for field, value := range map[string]string{
		"old": fmt.Sprintf(`%d {"replica":"old","name":"old"}`, old), "garbage": "garbage",
		"foreign": fmt.Sprintf(`%d [1]`, time.Now().UnixMilli()), "ahead": fmt.Sprintf(`%d {"name":"ahead"}`, time.Now().Add(time.Hour).UnixMilli()),
	} {
		if err := redis.HSet(t.Context(), key, field, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	list, err := c.Show(t.Context(), card.Card{Replica: "a", Name: "web1"})
	if err != nil || len(list) != 2 { // web1 and ahead
		t.Errorf("%+v, %v", list, err)
	}
	left, err := redis.HKeys(t.Context(), key).Result()
	slices.Sort(left)
	if err != nil || fmt.Sprint(left) != "[a ahead foreign]" {
		t.Errorf("left %q, %v", left, err)
	}
}
