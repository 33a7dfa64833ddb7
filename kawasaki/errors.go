package kawasaki

import "errors"

var (
	// errNetIn answers requests for ports.
	errNetIn = errors.New("net in: this server does not map ports yet")

	// errNetOut answers requests for rules.
	errNetOut = errors.New("net out: this server does not take rules yet")
)
