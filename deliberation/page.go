package deliberation

import (
	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
)

const (
	// MaxPageBytes bounds a page of a list, in bytes of protobuf. A page has one
	// deliberation at least, even if that is larger.
	MaxPageBytes = 1 << 20
	// maxPageReads bounds the bytes of the histories that a page reads.
	maxPageReads = 4 << 20
)

// Page collects the summaries of a list. It retains nothing else of a history.
type Page struct {
	Summaries []*pb.DeliberationSummary

	size, bytes, read int
}

// NewPage returns a page of a size.
func NewPage(size int) *Page { return &Page{size: size} }

// Add adds the summary of a history.
func (p *Page) Add(history *History) {
	summary := history.Summary()
	p.Summaries = append(p.Summaries, summary)
	p.bytes += proto.Size(summary)
}

// Count counts a history that was read for the page, whether it is added or not.
func (p *Page) Count(history *History) {
	p.read += proto.Size(history.Requested)
	for _, result := range history.Results() {
		p.read += proto.Size(result)
	}
}

// Full reports whether the page ends here. A next one may follow.
func (p *Page) Full() bool {
	return len(p.Summaries) >= p.size || p.bytes >= MaxPageBytes || p.read >= maxPageReads
}
