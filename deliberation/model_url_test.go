package deliberation_test

import (
	"strings"
	"testing"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestModelURL(t *testing.T) {
	t.Parallel()
	r := rules(t, func(s *deliberation.Settings) {
		s.ModelHosts = []string{"vllm", "pinned:8000", "*.Models.Example.", "::1", "[fd00::1]:8000", "10.0.0.1"}
	})
	for raw, says := range map[string]string{
		"http://vllm":                      "",
		"https://vllm/":                    "",
		"HTTP://VLLM:1234/a/b":             "",
		"http://vllm.":                     "",
		"http://pinned:8000":               "",
		"http://pinned":                    "not allowed",
		"http://pinned:8001":               "not allowed",
		"http://a.models.example":          "",
		"http://a.b.MODELS.example.:9":     "",
		"http://models.example":            "not allowed",
		"http://.models.example":           "must be a URL",
		"http://evilmodels.example":        "not allowed",
		"http://models.example.evil.com":   "not allowed",
		"http://[::1]:8000":                "",
		"http://[::1]":                     "",
		"http://[fd00::1]:8000":            "",
		"http://[fd00::1]:8001":            "not allowed",
		"http://10.0.0.1:80":               "",
		"http://10.0.0.2":                  "not allowed",
		"http://user@vllm":                 "user or password",
		"http://user:secret@vllm":          "user or password",
		"http://vllm@evil.example":         "user or password",
		"http://vllm?":                     "query",
		"http://vllm?a=b":                  "query",
		"http://vllm#":                     "fragment",
		"http://vllm#x":                    "fragment",
		"ftp://vllm":                       "http or https",
		"vllm:8000":                        "must be a URL",
		"vllm":                             "must be a URL",
		"http://":                          "must be a URL",
		"http:///v1":                       "must be a URL",
		"http://:8000":                     "must be a URL",
		"http:vllm":                        "must be a URL",
		"http://vllm:":                     "must be a URL",
		"http://vllm:0":                    "must be a URL",
		"http://vllm:65536":                "must be a URL",
		"http://vllm:http":                 "must be a URL",
		" http://vllm":                     "must be a URL",
		"http://vllm\n":                    "must be a URL",
		"http://vllm\\@evil.example":       "must be a URL",
		"http://vllm%00.evil.example":      "must be a URL",
		"http://a.models.example%2f.evil/": "must be a URL",
		"http://ｖｌｌｍ":                      "must be a URL",
		"http://a b.models.example":        "must be a URL",
		"//vllm":                           "http or https",
		"javascript:alert(1)":              "must be a URL",
	} {
		t.Run(raw, func(t *testing.T) {
			t.Parallel()
			_, err := r.Accept("id", request(func(r *pb.ExecuteDeliberationRequest) { r.VllmUrl = raw }))
			field := "vllm_url"
			if says == "" {
				field = ""
			}
			checkRefusal(t, err, deliberation.Invalid, field, says)
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%q shows the password", err)
			}
			if field != "" {
				field = "agents[1].fallbacks[0].vllm_url"
			}
			_, err = r.Accept("id", request(func(r *pb.ExecuteDeliberationRequest) {
				r.VllmUrl, r.Agents[1].Fallbacks = "http://vllm", []*pb.ModelEndpoint{{VllmUrl: raw, Model: "m"}}
			}))
			checkRefusal(t, err, deliberation.Invalid, field, says)
		})
	}
}

// FuzzModelURL: what is accepted is on an allowed host for any reader of URLs.
func FuzzModelURL(f *testing.F) {
	for _, seed := range []string{"http://vllm.svc:8000", "https://a.models.example/x", "http://u:p@localhost", "http://[::1%25eth0]:80", "http://localhost\\.evil", "http://localhost:80#@evil"} {
		f.Add(seed)
	}
	r := rules(f)
	f.Fuzz(func(t *testing.T, raw string) {
		record, err := r.Accept("id", request(func(r *pb.ExecuteDeliberationRequest) { r.VllmUrl = raw }))
		if err != nil || raw == "" {
			return
		}
		_, rest, ok := strings.Cut(record.GetVllmUrl(), "://")
		authority, _, _ := strings.Cut(rest, "/")
		host, _, _ := strings.Cut(strings.ToLower(authority), ":")
		host = strings.TrimSuffix(host, ".")
		if !ok || host != "vllm.svc" && host != "localhost" && !strings.HasSuffix(host, ".models.example") {
			t.Errorf("accepted %q, whose authority reads %q", raw, authority)
		}
	})
}
