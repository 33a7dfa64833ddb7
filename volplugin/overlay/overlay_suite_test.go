package overlay_test

import (
	"os"
	"testing"

	"github.com/verger-garden/verger/internal/testhost"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestMain(m *testing.M) {
	testhost.Isolate()
	os.Exit(m.Run())
}

func TestOverlay(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "overlay")
}
