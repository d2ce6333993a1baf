package standin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// maxBehaviour bounds the JSON of a behaviour.
const maxBehaviour = 1 << 20

// controlError is an error of the stand-in's own routes.
func controlError(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, map[string]string{"error": err.Error()})
}

func (s *Server) getBehaviour(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, s.Behaviour(r.PathValue("model")))
}

func (s *Server) putBehaviour(w http.ResponseWriter, r *http.Request) {
	var b Behaviour
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBehaviour)).Decode(&b); err != nil {
		controlError(w, http.StatusBadRequest, fmt.Errorf("the body is no behaviour: %w", err))
		return
	}
	model := r.PathValue("model")
	if err := s.SetBehaviour(model, b); err != nil {
		controlError(w, http.StatusBadRequest, err)
		return
	}
	s.log.InfoContext(r.Context(), "behaviour set", "model", model, "behaviour", b)
	writeJSON(w, http.StatusOK, s.Behaviour(model))
}

func (s *Server) deleteBehaviour(w http.ResponseWriter, r *http.Request) {
	s.ClearBehaviour(r.PathValue("model"))
	w.WriteHeader(http.StatusNoContent)
}

// getRequests returns the record: ?model= only that model's, ?limit= only so
// many of the last.
func (s *Server) getRequests(w http.ResponseWriter, r *http.Request) {
	requests := s.Requests()
	query := r.URL.Query()
	if query.Has("model") {
		requests = ofModel(requests, query.Get("model"))
	}
	if text := query.Get("limit"); text != "" {
		limit, err := strconv.Atoi(text)
		if err != nil || limit < 0 {
			controlError(w, http.StatusBadRequest, fmt.Errorf("limit %q: want a number, 0 or more", text))
			return
		}
		requests = requests[max(0, len(requests)-limit):]
	}
	writeJSON(w, http.StatusOK, struct {
		Snapshot

		Requests []Request `json:"requests"`
	}{s.Snapshot(), requests})
}

func ofModel(requests []Request, model string) []Request {
	rest := requests[:0]
	for _, request := range requests {
		if request.Model == model {
			rest = append(rest, request)
		}
	}
	return rest
}

func (s *Server) deleteRequests(w http.ResponseWriter, _ *http.Request) {
	s.Reset()
	w.WriteHeader(http.StatusNoContent)
}
