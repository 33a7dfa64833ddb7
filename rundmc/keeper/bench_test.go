package keeper_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/rundmc/keeper"
)

// BenchmarkRun starts /bin/true through gdn-init and waits for its end.
func BenchmarkRun(b *testing.B) {
	dir := b.TempDir()
	bin, err := testhost.BuildInit(dir)
	if err != nil {
		b.Fatal(err)
	}
	socket, err := keeper.Listen(filepath.Join(dir, "init.sock"))
	if err != nil {
		b.Fatal(err)
	}
	init := exec.Command(bin)
	init.ExtraFiles = []*os.File{socket}
	init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := init.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = init.Process.Kill() // it never ends by itself
		_ = init.Wait()
	}()
	conn, err := keeper.Dial(filepath.Join(dir, "init.sock"))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Hello(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		p, err := conn.Start(keeper.Start{Args: []string{"/bin/true"}, Dir: "/", Permitted: allCaps, Bounding: allCaps})
		if err != nil {
			b.Fatal(err)
		}
		<-p.Ended()
		if err := p.Forget(); err != nil {
			b.Fatal(err)
		}
		p.CloseFiles()
	}
}
