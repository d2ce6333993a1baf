// Package standin is a stand-in for a vLLM server, so that faults can be
// rehearsed: it speaks the part of the OpenAI-compatible API that agents use,
// with vLLM's own answers to what is wrong, and does on demand what a real
// server does on bad days: answer late, refuse, refuse at first, answer with
// nothing or with half of it, or never.
//
// A [Server] is an [net/http.Handler]. What it does is set by model with
// [Server.SetBehaviour], or over HTTP; what it was asked, and how each request
// ended, is returned by [Server.Requests] and [Server.Snapshot]; [Server.Wait]
// waits until it has seen what a test wants it to see.
//
// Beside vLLM's routes (/v1/chat/completions, /v1/models, /health, /metrics)
// it has its own, which want the API key too where there is one:
//
//	GET    /standin/behaviours/{model}   what the model does; no model: every other model
//	PUT    /standin/behaviours/{model}   sets it, as the JSON of a Behaviour
//	DELETE /standin/behaviours/{model}   back to what every other model does
//	GET    /standin/requests             the record; ?model= and ?limit= narrow it
//	DELETE /standin/requests             empties the record
package standin
