package auth

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/rs/cors"
)

// A browser sends requests to any server that it reaches, for the page of any site.
// Three rules keep foreign pages out:
//
//   - A request that changes something must come from a page of this server, or of
//     a trusted origin. Browsers say which; other clients do not, and pass.
//   - Without AUTH the request must name this machine in Host: the name of a foreign
//     site may lead here (DNS rebinding).
//   - Replies are readable for trusted origins only, by CORS.

// trust returns the check of origins.
func trust(origins []string) (*http.CrossOriginProtection, error) {
	protection := http.NewCrossOriginProtection()
	for _, origin := range origins {
		// CORS would read `*` as a pattern, and this check would not.
		if err := protection.AddTrustedOrigin(origin); err != nil || strings.Contains(origin, "*") {
			return nil, fmt.Errorf("CORS_ORIGINS: %q must be an origin such as https://console.example.com", origin)
		}
	}
	return protection, nil
}

// checkPage returns PermissionDenied for a request of a foreign page.
func (c *Check) checkPage(r *http.Request) error {
	if c.pages == nil || c.pages.Check(r) == nil {
		return nil
	}
	return denied("Origin", "pages of this origin may not call the server: its operator can add the origin to CORS_ORIGINS")
}

// namesThisMachine reports whether the Host of a request is a name that leads
// nowhere else.
func namesThisMachine(r *http.Request) bool {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if address, err := netip.ParseAddr(host); err == nil {
		return address.IsLoopback()
	}
	return host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// exposed are the headers of replies that pages may read, for REST, CloudEvents,
// Connect and gRPC-Web.
var exposed = []string{
	"Retry-After", "Location", "WWW-Authenticate", "Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin",
	"Ce-Id", "Ce-Source", "Ce-Specversion", "Ce-Subject", "Ce-Time", "Ce-Type", "Traceparent",
}

// ForBrowsers returns a handler that lets pages of origins call the one behind it
// (CORS). Without origins it is that one.
func ForBrowsers(origins []string, behind http.Handler) http.Handler {
	if len(origins) == 0 {
		return behind
	}
	return cors.New(cors.Options{
		AllowedOrigins: origins, AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost},
		AllowedHeaders: []string{"*"}, ExposedHeaders: exposed, MaxAge: 600,
	}).Handler(behind)
}

// ForWebhooks returns a handler that answers the handshake of the CloudEvents HTTP
// webhook specification for origins ("*": any): a sender asks before it sends
// events. Without origins it is the one behind it, and no sender is allowed.
func ForWebhooks(origins []string, behind http.Handler) http.Handler {
	if len(origins) == 0 {
		return behind
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sender := r.Header.Get("Webhook-Request-Origin")
		if r.Method != http.MethodOptions || r.URL.Path != "/" || sender == "" {
			behind.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Allow", http.MethodPost)
		if allowed := slices.ContainsFunc(origins, func(origin string) bool { return origin == "*" || strings.EqualFold(origin, sender) }); !allowed {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Webhook-Allowed-Origin", sender)
		if r.Header.Get("Webhook-Request-Rate") != "" {
			w.Header().Set("Webhook-Allowed-Rate", "*")
		}
	})
}
