package main

import (
	"path/filepath"
	"slices"

	"usher/integration/bench/plot"
)

// curve is CPU against a number of clients or sessions.
type curve struct {
	file, title, x string
	at             []int
	run            func(n int) func(*target, *process) ([]float64, error)
}

// lessThan is where the curve of a peer with a process for every few sessions ends.
const lessThan = 2000

var curves = []curve{
	{file: "cpu-clients.svg", title: "Set-up and end of a session", x: "clients at a time", at: []int{1, 4, 16, 64, 256},
		run: func(clients int) func(*target, *process) ([]float64, error) {
			return perOne(4000, 1e6, func(t *target, p *process, n int) error { return t.sessions(p, clients, n) })
		}},
	{file: "cpu-sessions.svg", title: "Round trip of 64 bytes, over 64 sessions", x: "idle sessions beside them", at: []int{10, 100, 1000, 9000},
		run: besideIdle},
}

// besideIdle measures round trips while so many sessions are idle.
func besideIdle(sessions int) func(*target, *process) ([]float64, error) {
	roundTrips := perOne(30000, 1e6, func(t *target, p *process, n int) error { return t.roundTrips(p, 64, n) })
	return func(t *target, p *process) ([]float64, error) {
		for range sessions {
			c, err := t.dial(p, "", toEcho)
			if err != nil {
				return nil, err
			}
			defer c.Close()
		}
		return roundTrips(t, p)
	}
}

// draw measures the curves, and draws each of them into a file of a folder.
func draw(rounds int, folder, dir string, t *target) error {
	for _, c := range curves {
		r := map[string]map[int][]float64{}
		for round := range rounds {
			for i := range peers {
				p := peers[(round+i)%len(peers)]
				if p.start == nil {
					continue
				}
				if r[p.name] == nil {
					r[p.name] = map[int][]float64{}
				}
				if err := c.measure(r[p.name], p, dir, t); err != nil {
					return err
				}
			}
		}
		picture := plot.Plot{Title: c.title, X: c.x, Y: "CPU of the proxy, µs"}
		for _, p := range peers {
			line := plot.Line{Name: p.name}
			for _, n := range c.at {
				if values := r[p.name][n]; len(values) > 0 {
					line.Points = append(line.Points, plot.Point{X: float64(n), Y: median(values)})
				}
			}
			if len(line.Points) > 0 {
				picture.Lines = append(picture.Lines, line)
			}
		}
		if err := picture.WriteFile(filepath.Join(folder, c.file)); err != nil {
			return err
		}
	}
	return nil
}

// measure adds one value for each number to those of a peer.
func (c curve) measure(values map[int][]float64, p *peer, dir string, t *target) error {
	for _, n := range c.at {
		if n > lessThan && p.name != "before" && !slices.Contains(p.can, manyHeld) {
			continue
		}
		got, err := measureOne(measurement{run: c.run(n)}, p, dir, t)
		if err != nil {
			return err
		}
		values[n] = append(values[n], got[0])
	}
	return nil
}
