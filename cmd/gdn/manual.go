package main

import "github.com/jessevdk/go-flags"

// manual is what "gdn COMMAND --help" says above the options.
var manual = map[string]string{
	"server": `Serve the Garden API until SIGTERM or SIGINT. No option is needed. Containers and their processes outlive the server: the next one with the same --state-dir takes them over.

Example:
  gdn server --network-pool 10.80.0.0/22`,

	"run": `Create a container, run COMMAND in it, show its output and exit with its exit code: 128 plus the signal's number if a signal ended it, 127 if COMMAND is not in the image, 125 if gdn or the server met a problem. SIGINT and SIGTERM ask the process to end, a second one kills it.

With --rm the container is destroyed at the end; without, it stays, and its handle is printed to stderr unless --handle gave it. If COMMAND cannot be started, nothing stays.

Examples:
  gdn run --rm -- sh -c 'id; hostname'
  gdn run --rm -it -- sh
  gdn run --handle web --mount /srv/www:/www:ro -- busybox httpd -f -h /www`,

	"create": `Create a container in which nothing runs yet, and print its handle.

Example:
  gdn create --handle web --mount /srv/www:/www:ro`,

	"exec": `Run COMMAND in the container, show its output and exit with its exit code, as "gdn run" does.

Example:
  gdn exec -it web -- sh`,

	"attach": `Show what the process prints from now on, wait for it, and exit with its exit code. "gdn ps" lists the processes of each container.

Example:
  gdn attach web 6e1d41a2`,

	"ps": `List the containers of the server, one a line.

Examples:
  gdn ps
  gdn rm $(gdn ps -q --property owner=me)`,

	"inspect": `Print what the server knows of the container, as JSON.

Example:
  gdn inspect web`,

	"stop": `End all processes of the containers: by SIGTERM, and after 10 seconds by SIGKILL. The containers stay until "gdn rm".

Example:
  gdn stop web worker`,

	"rm": `Destroy the containers, whether something runs in them or not.

Example:
  gdn rm web worker`,
}

// describe puts the manual into the parser.
func describe(parser *flags.Parser) {
	parser.LongDescription = `Linux containers, and the Garden API that serves them.

Start "gdn server" as root, then try:
  gdn run --rm -- sh -c 'id; hostname'`
	for _, command := range parser.Commands() {
		command.LongDescription = manual[command.Name]
	}
}
