package volplugin

import "github.com/verger-garden/verger/volplugin/overlay"

// Downgrade makes a started store work as it does on an older kernel.
func (s *Store) Downgrade(k overlay.Kernel) error {
	s.kernel = k
	if s.view != nil && !k.DetachedViews {
		view := s.view
		s.view = nil
		return view.Close()
	}
	return nil
}
