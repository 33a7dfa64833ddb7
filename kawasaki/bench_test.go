package kawasaki_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"

	"github.com/verger-garden/verger/kawasaki"
)

// BenchmarkCycle measures Network (prepared, as gardener does) and Destroy,
// with 1 and with 200 containers beside, and reports medians. The time per
// operation includes making the process to connect and the pause before each
// step, which makes the kernel wait as it does in real life.
func BenchmarkCycle(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	for _, program := range []string{"iptables-nft", "iptables-legacy"} {
		for _, beside := range []int{1, 200} {
			b.Run(fmt.Sprintf("%s/%d", program, beside), func(b *testing.B) { cycle(b, program, beside) })
		}
	}
}

func cycle(b *testing.B, program string, beside int) {
	n, err := kawasaki.New(kawasaki.Config{Dir: b.TempDir(), Iptables: program})
	check(b, err)
	check(b, n.Start())
	defer func() {
		handles, err := n.Handles()
		check(b, err)
		for _, h := range handles {
			check(b, n.Destroy(log, h))
		}
		check(b, n.Stop())
		check(b, n.Uninstall())
	}()
	for i := range beside {
		create(b, n, fmt.Sprint("beside", i))
	}
	var network, cold, destroy []time.Duration
	for i := 0; b.Loop(); i++ {
		h := fmt.Sprint("c", i)
		t, end := create(b, n, h)
		network = append(network, t)
		destroy = append(destroy, destroyed(b, n, h, end))

		h = fmt.Sprint("d", i)
		start := time.Now()
		pid, end := process(b)
		check(b, n.Network(log, garden.ContainerSpec{Handle: h}, pid))
		cold = append(cold, time.Since(start))
		destroyed(b, n, h, end)
	}
	b.ReportMetric(median(network), "ms/network")
	b.ReportMetric(median(cold), "ms/unprepared")
	b.ReportMetric(median(destroy), "ms/destroy")
}

func create(b *testing.B, n *kawasaki.Networker, h string) (took time.Duration, end func()) {
	spec := garden.ContainerSpec{Handle: h}
	check(b, n.PrepareNetwork(log, spec))
	_, err := n.SetupBindMounts(log, h, false, "")
	check(b, err)
	pid, end := process(b)
	time.Sleep(20 * time.Millisecond) // the runtime at work
	start := time.Now()
	check(b, n.Network(log, spec, pid))
	return time.Since(start), end
}

func destroyed(b *testing.B, n *kawasaki.Networker, h string, end func()) time.Duration {
	end()
	start := time.Now()
	check(b, n.Destroy(log, h))
	return time.Since(start)
}

func process(b *testing.B) (pid int, end func()) {
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	check(b, cmd.Start())
	end = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	}
	b.Cleanup(end)
	return cmd.Process.Pid, end
}

func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2]) / float64(time.Millisecond)
}

func check(b *testing.B, err error) {
	if err != nil {
		b.Helper()
		b.Fatal(err)
	}
}
