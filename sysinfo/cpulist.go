package sysinfo

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// countCPUs counts the processors in the kernel's list format: "0-3,7".
func countCPUs(list string) (int, error) {
	count := 0
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			return 0, err
		}
		last, err := strconv.ParseUint(to, 10, 16)
		if err != nil {
			return 0, err
		}
		if last < first {
			return 0, fmt.Errorf("range %q runs backwards", part)
		}
		count += int(last-first) + 1
	}
	if count == 0 {
		return 0, errors.New("no processor")
	}
	return count, nil
}
