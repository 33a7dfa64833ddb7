package volplugin

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/verger-garden/verger/internal/atomicfile"
)

// A volume is the record of one root file system, kept in
// volumes/<handle>/volume.json.
type volume struct {
	Handle string `json:"handle"`

	// Boot is the run of the host's kernel that the volume belongs to.
	// Containers do not survive a reboot, nor do their volumes.
	Boot string `json:"boot"`

	// Raw is the folder that is the root as it is. Empty: an overlay.
	Raw string `json:"raw,omitempty"`

	// Folder is a folder of the host that the overlay lies on.
	Folder string `json:"folder,omitempty"`

	// Layers that the overlay lies on, the lowest first.
	Layers []string `json:"layers,omitempty"`

	// Namespaced is true if owners are shifted.
	Namespaced bool `json:"namespaced,omitempty"`
}

func (s *Store) recordFile(handle string) string {
	return filepath.Join(s.volumeDir(handle), "volume.json")
}

// record saves v and lists it.
func (s *Store) record(v volume) error {
	s.mu.Lock()
	s.volumes[v.Handle] = v
	s.mu.Unlock()
	return atomicfile.WriteJSON(s.recordFile(v.Handle), v, 0o600)
}

func (s *Store) lookup(handle string) (volume, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.volumes[handle]
	return v, ok
}

func (s *Store) forget(handle string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.volumes, handle)
}

// bootID names this run of the kernel.
func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}
