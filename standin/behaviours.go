package standin

import (
	"fmt"
	"sync"
)

// maxModels bounds what is stored by model if every model exists; what comes
// after shares one entry.
const maxModels = 1_000

// behaviours are what the models do, and how often each was asked since.
type behaviours struct {
	mu       sync.Mutex
	fallback *compiled
	own      map[string]*compiled
	asked    map[string]uint64
}

func newBehaviours(o Options) (*behaviours, error) {
	fallback, err := compile(o.Default)
	if err != nil {
		return nil, fmt.Errorf("default: %w", err)
	}
	b := &behaviours{fallback: fallback, own: map[string]*compiled{}, asked: map[string]uint64{}}
	for model, behaviour := range o.Behaviours {
		if err := b.set(model, behaviour); err != nil {
			return nil, fmt.Errorf("behaviours[%q]: %w", model, err)
		}
	}
	return b, nil
}

// set gives a model a behaviour and counts from 0 again; no model: all that
// have none of their own.
func (b *behaviours) set(model string, behaviour Behaviour) error {
	ready, err := compile(behaviour)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if model == "" {
		b.fallback = ready
		b.forgetOthers()
		return nil
	}
	b.own[model] = ready
	delete(b.asked, model)
	return nil
}

// forgetOthers starts the counts of models without an own behaviour again.
func (b *behaviours) forgetOthers() {
	for model := range b.asked {
		if _, ok := b.own[model]; !ok {
			delete(b.asked, model)
		}
	}
}

// unset takes a model's own behaviour away; no model: back to the zero value.
func (b *behaviours) unset(model string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if model == "" {
		b.fallback, _ = compile(Behaviour{}) // the zero value is good
		b.forgetOthers()
		return
	}
	delete(b.own, model)
	delete(b.asked, model)
}

// get is what a model does.
func (b *behaviours) get(model string) Behaviour {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.of(model).Behaviour
}

func (b *behaviours) of(model string) *compiled {
	if own, ok := b.own[model]; ok {
		return own
	}
	return b.fallback
}

// next is what the model does with its next request, and which one it is.
func (b *behaviours) next(model string) (*compiled, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := model
	if _, known := b.asked[key]; !known && len(b.asked) >= maxModels {
		key = ""
	}
	b.asked[key]++
	return b.of(model), b.asked[key]
}
