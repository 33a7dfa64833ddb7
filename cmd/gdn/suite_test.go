package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/verger-garden/verger/internal/testhost"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// TestMain lets the test binary be gdn too, so that the tests run the code
// under test as a program of its own.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "gdn" {
		testhost.Isolate()
	}
	testscript.Main(m, map[string]func(){"gdn": main})
}

func TestGdn(t *testing.T) {
	_ = os.Unsetenv("GDN_SOCKET") // the tests know their servers
	RegisterFailHandler(Fail)
	RunSpecs(t, "gdn")
}
