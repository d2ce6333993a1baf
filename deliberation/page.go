package deliberation

import (
	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
)

const (
	// MaxPageBytes is the most that a page of a list tells, in protobuf. One
	// deliberation fits always: those of an older journal may have long names.
	MaxPageBytes = 1 << 20
	// maxPageReads is the most that a page reads for it.
	maxPageReads = 4 << 20
)

// Page collects what a list tells of deliberations. It holds no more of a story
// than that.
type Page struct {
	Summaries []*pb.DeliberationSummary

	size, told, read int
}

// NewPage returns a page of a size.
func NewPage(size int) *Page { return &Page{size: size} }

// Add puts a story on the page.
func (p *Page) Add(story *History) {
	summary := story.Summary()
	p.Summaries = append(p.Summaries, summary)
	p.told += proto.Size(summary)
}

// Count counts a story that was read for the page.
func (p *Page) Count(story *History) {
	p.read += proto.Size(story.Requested)
	for _, result := range story.Results() {
		p.read += proto.Size(result)
	}
}

// Full reports that the page ends: there may be a next one.
func (p *Page) Full() bool {
	return len(p.Summaries) >= p.size || p.told >= MaxPageBytes || p.read >= maxPageReads
}
