package standin

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzDecodeChat(f *testing.F) {
	f.Add([]byte(`{"model":"m","messages":[{"role":"user","content":"x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		req, fault := decodeChat(bytes.NewReader(data))
		if (req == nil) == (fault == nil) {
			t.Fatalf("request %v, fault %v", req, fault)
		}
		if fault != nil {
			if body, err := json.Marshal(fault); err != nil || !json.Valid(body) || fault.Status < 400 || fault.Status > 499 {
				t.Fatalf("fault %+v: %s %v", fault, body, err)
			}
			return
		}
		p := newPrompt("m", req, 1)
		short, _ := cutTokens(p.proposal(), req.maxTokens())
		if limit := req.maxTokens(); limit > 0 && countTokens(short) > limit {
			t.Fatalf("%d tokens of at most %d", countTokens(short), limit)
		}
		if text, _ := clipBytes(p.Last, 7); len(text) > 7 || utf8.ValidString(p.Last) && !utf8.ValidString(text) {
			t.Fatalf("clipped to %q", text)
		}
		if got := strings.Join(chunks(p.Last, maxChunks), ""); got != p.Last {
			t.Fatalf("chunks make %q of %q", got, p.Last)
		}
	})
}

func TestRoleIn(t *testing.T) {
	t.Parallel()
	for system, want := range map[string]string{
		"": "",
		"You are one of several experts who work.\nYou are a.b-1, an expert DEV.": "DEV",
		"You are an expert QA engineer. Be brief.":                                "QA engineer",
		"You are the ARCHITECT":                                                   "ARCHITECT",
		"Be brief.":                                                               "",
	} {
		if got := roleIn(system); got != want {
			t.Errorf("%q: %q, want %q", system, got, want)
		}
	}
}

func TestFirstLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                       "",
		"\n Task:\n\n Do it \nx": "Do it",
		"Task:":                  "Task:",
		strings.Repeat("ä", 300): strings.Repeat("ä", maxQuote) + "…",
		strings.Repeat("ä", 150): strings.Repeat("ä", 150),
	} {
		if got := firstLine(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestCutTokens(t *testing.T) {
	t.Parallel()
	if got, cut := cutTokens(" one  two three", 2); got != " one  two" || !cut {
		t.Errorf("%q %v", got, cut)
	}
	if got, cut := cutTokens("one two ", 2); got != "one two " || cut {
		t.Errorf("%q %v", got, cut)
	}
}
