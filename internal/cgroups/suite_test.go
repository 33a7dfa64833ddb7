package cgroups

import (
	"os"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/internal/testhost"
)

func TestMain(m *testing.M) {
	testhost.Isolate()
	os.Exit(m.Run())
}

func TestCgroups(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "cgroups")
}
