package functions

import (
	"context"
	"net/http"

	"rayexecutor/auth"
	"rayexecutor/deliberation"
	"rayexecutor/gate"
)

// admit finds out who makes a request, before its body is read. The context that
// it returns carries the caller to the operation.
func (f *Functions) admit(r *http.Request) (context.Context, error) {
	caller, err := f.auth.Caller(r)
	if err != nil {
		return nil, err
	}
	if caller == f.auth.Default() {
		return r.Context(), nil // callerOf finds it without a context of its own
	}
	return auth.With(r.Context(), caller), nil
}

// Protect returns a handler that only a caller with the scope admin reaches, for
// routes besides the operations. It is not behind the gate: metrics are read while
// the gate is full.
func (f *Functions) Protect(behind http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := f.auth.Caller(r)
		if err == nil {
			err = caller.May(auth.Admin)
		}
		if err != nil {
			f.refuse(w, r, "", err)
			return
		}
		behind.ServeHTTP(w, r)
	})
}

// IsOperator reports whether a request comes from a caller with the scope admin.
func (f *Functions) IsOperator(r *http.Request) bool {
	caller, err := f.auth.Caller(r)
	return err == nil && caller.Admin()
}

// callerOf returns who makes a call. A call from within the process has no caller:
// it is allowed only where everybody is.
func (f *Functions) callerOf(ctx context.Context) (*auth.Caller, error) {
	if caller := auth.From(ctx); caller != nil {
		return caller, nil
	}
	if caller := f.auth.Default(); caller != nil {
		return caller, nil
	}
	return nil, auth.ErrMissing
}

// permit returns PermissionDenied unless the caller of a call has a scope.
func (f *Functions) permit(ctx context.Context, scope auth.Scope) error {
	caller, err := f.callerOf(ctx)
	if err != nil {
		return err
	}
	return caller.May(scope)
}

// tenantOf returns the tenant whose deliberations a caller sees; empty for all.
func (f *Functions) tenantOf(ctx context.Context) (string, error) {
	caller, err := f.callerOf(ctx)
	if err != nil || caller.Admin() {
		return "", err
	}
	return caller.Tenant, nil
}

// visible returns a history to a caller who sees it. Another tenant's is as that of
// an id which does not exist.
func (f *Functions) visible(ctx context.Context, history *deliberation.History) (*deliberation.History, error) {
	caller, err := f.callerOf(ctx)
	if err != nil {
		return nil, err
	}
	if !caller.Sees(history.Requested.GetTenant()) {
		return deliberation.Fold(nil), nil
	}
	return history, nil
}

// checkVisible returns NotFound for a deliberation that the caller does not see. It
// reads the leader, since the caller may have submitted it a moment ago.
func (f *Functions) checkVisible(ctx context.Context, id string) error {
	tenant, err := f.tenantOf(ctx)
	if err != nil || tenant == "" {
		return err
	}
	ctx, back := gate.Borrow(ctx)
	defer back()
	history, err := f.journal.ReadLeader(ctx, id)
	if err != nil {
		return err
	}
	if history, err = f.visible(ctx, history); err == nil && history.State == deliberation.Unknown {
		err = deliberation.NoSuch(id)
	}
	return err
}
