package deliberation_test

import (
	"strings"
	"testing"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/vectors"
)

func TestModelBase(t *testing.T) {
	t.Parallel()
	type vector struct {
		URL, Base string
		Refused   bool
	}
	for _, v := range vectors.Read[vector](t, "modelurls.json") {
		err := deliberation.CheckModelPath(v.URL)
		if v.Refused {
			if err == nil || !strings.Contains(err.Error(), "http://vllm:8000:") {
				t.Errorf("%s: %v", v.URL, err)
			}
			continue
		}
		if got := deliberation.ModelBase(v.URL); err != nil || got != v.Base {
			t.Errorf("%s: %s, %v; want %s", v.URL, got, err, v.Base)
		}
	}
}

func TestTheRecordHasTheBase(t *testing.T) {
	t.Parallel()
	r := rules(t)
	record, err := r.Accept("d", request(func(r *pb.ExecuteDeliberationRequest) { r.VllmUrl = "http://vllm.svc:8000/v1/" }))
	if err != nil || record.GetVllmUrl() != "http://vllm.svc:8000" {
		t.Errorf("%v, %v", record.GetVllmUrl(), err)
	}
	_, err = r.Accept("d", request(func(r *pb.ExecuteDeliberationRequest) { r.VllmUrl = "http://vllm.svc:8000/v1/chat/completions" }))
	if err == nil || deliberation.AsError(err).Field != "vllm_url" || !strings.Contains(err.Error(), "must be the server's base, http://vllm.svc:8000:") {
		t.Error(err)
	}
}
