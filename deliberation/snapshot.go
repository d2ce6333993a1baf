package deliberation

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "rayexecutor/proto/ray_executor/v1"
)

// Snapshot is a ledger as it is stored: a StatsSnapshot in its wire format. A
// million open deliberations are one slice, not a million messages, which would
// not fit into a keeper's pod.
type Snapshot struct {
	Sequence uint64
	// Data is the StatsSnapshot. Its first part has no field `open`.
	Data []byte

	counts int // the size of that part
}

// openField and refField are the numbers of StatsSnapshot's `open` and `open_ref`.
const (
	openField protowire.Number = 8
	refField  protowire.Number = 9
)

// WithRef returns the StatsSnapshot without its open deliberations, and with the
// name of the object that has them.
func (s Snapshot) WithRef(name string) []byte {
	data := append([]byte(nil), s.Data[:s.counts]...)
	data = protowire.AppendTag(data, refField, protowire.BytesType)
	return protowire.AppendString(data, name)
}

// Snapshot encodes the whole ledger, from which DecodeLedger can start. The open
// deliberations are in no order.
func (l *Ledger) Snapshot() (Snapshot, error) {
	l.totals.save(&l.counts)
	counts, err := proto.Marshal(&l.counts)
	if err != nil {
		return Snapshot{}, fmt.Errorf("encode the statistics: %w", err)
	}
	encoded := openMessage{pools: l.pools.all, tenants: l.tenants.all}
	size := len(counts)
	for id, open := range l.open {
		size += protowire.SizeTag(openField) + protowire.SizeBytes(encoded.set(id, open))
	}
	data := append(make([]byte, 0, size), counts...)
	for id, open := range l.open {
		data = protowire.AppendTag(data, openField, protowire.BytesType)
		data = protowire.AppendVarint(data, uint64(encoded.set(id, open)))
		if data, err = (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(data, &encoded.message); err != nil {
			return Snapshot{}, fmt.Errorf("encode %s: %w", id, err)
		}
	}
	return Snapshot{Sequence: l.Sequence(), Data: data, counts: len(counts)}, nil
}

// openMessage is the message of one open deliberation, which is used again for the
// next one.
type openMessage struct {
	message            pb.StatsSnapshot_Open
	submitted, started timestamppb.Timestamp
	pools, tenants     []string
}

// set makes it the message of another deliberation, and returns its encoded size.
func (m *openMessage) set(id string, open slot) int {
	m.message.DeliberationId, m.message.Pool, m.message.Sequence = id, m.pools[open.pool], open.sequence
	m.message.Tenant = m.tenants[open.tenant]
	m.message.TimeoutSeconds, m.message.Attempts = int32(open.timeout/int64(time.Second)), open.attempts
	setTime(&m.submitted, open.submitted)
	m.message.SubmittedAt, m.message.StartedAt = &m.submitted, nil
	if open.started != 0 {
		setTime(&m.started, open.started)
		m.message.StartedAt = &m.started
	}
	return proto.Size(&m.message)
}

func setTime(timestamp *timestamppb.Timestamp, nanoseconds int64) {
	timestamp.Seconds, timestamp.Nanos = nanoseconds/int64(time.Second), int32(nanoseconds%int64(time.Second))
}

// SnapshotRef returns the name that WithRef gave a snapshot; empty if it has none,
// or cannot be read.
func SnapshotRef(data []byte) string {
	counts, err := decodeCounts(data)
	if err != nil {
		return ""
	}
	return counts.GetOpenRef()
}

// DecodeLedger starts from a snapshot's data. It decodes one open deliberation
// after the other.
func DecodeLedger(data []byte) (*Ledger, error) {
	counts, err := decodeCounts(data)
	if err != nil {
		return nil, err
	}
	ledger := NewLedger(counts)
	var open pb.StatsSnapshot_Open
	for rest := data; len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		size := protowire.ConsumeFieldValue(number, kind, rest[n:])
		if number == openField && kind == protowire.BytesType {
			encoded, _ := protowire.ConsumeBytes(rest[n:])
			if err := proto.Unmarshal(encoded, &open); err != nil {
				return nil, fmt.Errorf("decode an open deliberation of a snapshot: %w", err)
			}
			ledger.putMessage(&open)
		}
		rest = rest[n+size:]
	}
	return ledger, nil
}

// decodeCounts decodes a snapshot without its open deliberations. The data's
// fields are complete if it returns no error.
func decodeCounts(data []byte) (*pb.StatsSnapshot, error) {
	var counts []byte
	for rest := data; len(rest) > 0; {
		number, _, n := protowire.ConsumeField(rest)
		if n < 0 {
			return nil, fmt.Errorf("decode a snapshot: %w", protowire.ParseError(n))
		}
		if number != openField {
			counts = append(counts, rest[:n]...)
		}
		rest = rest[n:]
	}
	snapshot := &pb.StatsSnapshot{}
	if err := proto.Unmarshal(counts, snapshot); err != nil {
		return nil, fmt.Errorf("decode a snapshot: %w", err)
	}
	return snapshot, nil
}

// putMessage adds an open deliberation of a snapshot.
func (l *Ledger) putMessage(o *pb.StatsSnapshot_Open) {
	open := slot{
		sequence: o.GetSequence(), submitted: o.GetSubmittedAt().AsTime().UnixNano(), pool: l.pools.number(o.GetPool()),
		timeout: int64(o.GetTimeoutSeconds()) * int64(time.Second), attempts: o.GetAttempts(), tenant: l.tenants.number(o.GetTenant()),
	}
	if o.GetStartedAt() != nil {
		open.started = o.GetStartedAt().AsTime().UnixNano()
	}
	l.put(o.GetDeliberationId(), open)
}
