package sysinfo

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestSysinfo(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Sysinfo Suite")
}
