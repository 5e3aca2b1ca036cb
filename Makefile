# Short names for commands; what they do is in the go command and in .ci.
.PHONY: build short test lint fuzz mutations bench image man

build:     ; go build ./cmd/usher
short:     ; go test -short ./...
test:      ; go test ./...
lint:      ; .ci/lint
fuzz:      ; .ci/fuzz 30s
mutations: ; .ci/simulation
bench:     ; go -C integration run ./bench
image:     ; docker build -f deploy/compose/Dockerfile -t usher:dev .
man:       ; go run ./cmd/usher man
