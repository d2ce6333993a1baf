package journal_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"google.golang.org/protobuf/proto"

	"rayexecutor/events"
	"rayexecutor/journal/journaltest"
)

// seed stores n deliberations that have completed, quickly.
func seed(t testing.TB, url, prefix string, n int) {
	t.Helper()
	_, js := journaltest.Dial(t, url)
	for i := range n {
		id := fmt.Sprintf("%s-%d", prefix, i)
		for _, event := range []proto.Message{journaltest.Record(id, 1, 300), completed(id, journaltest.Result(0, "yes"))} {
			encoded, err := events.Encode(event, events.Source, "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := js.PublishMsgAsync(&nats.Msg{Subject: encoded.Subject, Header: encoded.Header, Data: encoded.Data}); err != nil {
				t.Fatal(err)
			}
		}
		if i%500 == 499 || i == n-1 {
			<-js.PublishAsyncComplete()
		}
	}
}
