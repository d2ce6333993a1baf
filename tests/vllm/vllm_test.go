//go:build vllm

package vllm_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"rayexecutor/tests/vllm"
)

func ask(ctx context.Context, s *vllm.Server, key, model, text string) (int, string, error) {
	body, err := json.Marshal(map[string]any{
		"model": model, "messages": []map[string]string{{"role": "user", "content": text}},
	})
	if err != nil {
		return 0, "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/v1/chat/completions", strings.NewReader(string(body)))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return res.StatusCode, string(data), err
}

// What the worker and the stand-in take for granted about vLLM.
func TestVLLM(t *testing.T) {
	s := server
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	status, body, err := ask(ctx, s, s.APIKey, s.Model, "Build a login page")
	if err != nil || status != 200 || !strings.Contains(body, `"finish_reason":"stop"`) || strings.Contains(body, `"content":""`) {
		t.Errorf("an ordinary request: %d %s %v", status, body, err)
	}
	status, body, err = ask(ctx, s, s.APIKey, "other", "x")
	want := `{"error":{"message":"The model ` + "`other`" + ` does not exist. Valid aliases: tiny.","type":"NotFoundError","param":"model","code":404}}`
	if err != nil || status != 404 || body != want {
		t.Errorf("an unknown model: %d %s %v", status, body, err)
	}
	status, body, err = ask(ctx, s, "wrong", s.Model, "x")
	if err != nil || status != 401 || body != `{"error":"Unauthorized"}` {
		t.Errorf("a wrong key: %d %s %v", status, body, err)
	}

	asking, leave := context.WithCancel(ctx)
	left := make(chan error, 1)
	go func() {
		_, _, err := ask(asking, s, s.APIKey, s.Model, "Build a login page "+vllm.Slow)
		left <- err
	}()
	if err := s.WaitRunning(ctx, 1); err != nil {
		t.Fatal(err)
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the slow request was not cancelled: %v", err)
	}
	gone := time.Now()
	if err := s.WaitRunning(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(gone); took > 5*time.Second {
		t.Errorf("generation went on for %v after its client had gone", took)
	}
}
