package journal_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// beat writes a heartbeat as a worker does.
func beat(t testing.TB, js jetstream.JetStream, cluster, replica string, data []byte) {
	t.Helper()
	if data == nil {
		data = must[[]byte](t)(proto.Marshal(&pb.WorkerHeartbeat{Cluster: cluster, Replica: replica}))
	}
	if _, err := js.Publish(t.Context(), fmt.Sprintf("$KV.%s.%s.%s", journal.Workers, cluster, replica), data); err != nil {
		t.Fatal(err)
	}
}

func TestHeartbeats(t *testing.T) {
	t.Parallel()
	w := setup(t)
	_, js := journaltest.Dial(t, w.server.URL)
	beat(t, js, "east", "one", nil)
	beat(t, js, "east", "one", nil)
	beat(t, js, "west", "two", nil)
	beat(t, js, "west", "gone", nil)
	bucket := must[jetstream.KeyValue](t)(js.KeyValue(t.Context(), journal.Workers))
	if err := bucket.Delete(t.Context(), "west.gone"); err != nil {
		t.Fatal(err)
	}
	// What is no heartbeat: anyone may write there.
	beat(t, js, "west", "noise", []byte("\xff\xff"))
	beat(t, js, "west", "nameless", must[[]byte](t)(proto.Marshal(&pb.WorkerHeartbeat{Cluster: "west"})))

	each, supported, err := w.Heartbeats(t.Context())
	if err != nil || !supported || len(each) != 2 || each["one"].GetCluster() != "east" || each["two"].GetCluster() != "west" {
		t.Fatalf("%v, %v, %v", each, supported, err)
	}
	if age := each["one"].Age; age < 0 || age > 30*time.Second {
		t.Errorf("its age is %s", age)
	}
	// They are cached for a moment, without a request to the server.
	beat(t, js, "east", "three", nil)
	if again, _, _ := w.Heartbeats(t.Context()); len(again) != 2 {
		t.Errorf("read again at once: %v", again)
	}
	config := must[jetstream.KeyValueStatus](t)(bucket.Status(t.Context()))
	if config.TTL() != time.Minute || config.History() != 1 {
		t.Errorf("the bucket is of age %s and history %d", config.TTL(), config.History())
	}
}

// More replicas than the server sends in one batch.
func TestHeartbeatsOfManyReplicas(t *testing.T) {
	t.Parallel()
	w := setup(t)
	_, js := journaltest.Dial(t, w.server.URL)
	const many = 2_500
	for i := range many {
		name := fmt.Sprintf("r%d", i)
		data := must[[]byte](t)(proto.Marshal(&pb.WorkerHeartbeat{Cluster: "east", Replica: name}))
		if _, err := js.PublishAsync("$KV."+journal.Workers+".east."+name, data); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	started := time.Now()
	each, _, err := w.Heartbeats(t.Context())
	if err != nil || len(each) != many {
		t.Fatalf("%d of %d, %v", len(each), many, err)
	}
	t.Logf("%d heartbeats were read in %s", many, time.Since(started))
}

// A journal of an older version has no bucket, and that is no error; the
// next deploy makes the bucket.
func TestHeartbeatsWithoutBucket(t *testing.T) {
	t.Parallel()
	w := setup(t)
	_, js := journaltest.Dial(t, w.server.URL)
	if err := js.DeleteKeyValue(t.Context(), journal.Workers); err != nil {
		t.Fatal(err)
	}
	if each, supported, err := w.Heartbeats(t.Context()); supported || err != nil || len(each) > 0 {
		t.Errorf("%v, %v, %v", each, supported, err)
	}
	later := journaltest.Connect(t, w.server.URL)
	if _, supported, err := later.Heartbeats(t.Context()); !supported || err != nil {
		t.Errorf("after deploy: %v, %v", supported, err)
	}
}

func TestHeartbeatsWithoutNATS(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.server.Stop()
	_, _, err := w.Heartbeats(t.Context())
	wantCode(t, err, deliberation.Unavailable)
}
