package properties

import (
	"encoding/json"
	"testing"

	"github.com/verger-garden/verger/internal/handle"
)

// FuzzParse: what parses names a valid handle, has properties, and survives
// being written and parsed again.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"handle":"h","properties":{"a":"1"}}`, `{"handle":"h","properties":{}}`, `{"handle":"../h","properties":{}}`,
		`{}`, `null`, ``, `{"handle":"h","properties":null}`, `{"handle":"h","properties":{"a":"\ud800"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parse(data)
		if err != nil {
			return
		}
		if err := handle.Validate(r.Handle); err != nil {
			t.Fatal(err)
		}
		if r.Properties == nil {
			t.Fatal("no properties")
		}
		if err := check(r.Properties); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(again); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
	})
}
