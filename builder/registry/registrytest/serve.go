// Package registrytest starts a real registry for tests: distribution, from which
// most others descend. Only tests may import it.
package registrytest

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // where it keeps its blobs
	"github.com/sirupsen/logrus"
)

// Serve starts a registry on loopback. It returns its host and port, and the
// folder in which its blobs lie.
func Serve(t testing.TB) (host, blobs string) {
	t.Helper()
	logrus.SetLevel(logrus.PanicLevel)
	dir := t.TempDir()
	config := &configuration.Configuration{Storage: configuration.Storage{"filesystem": configuration.Parameters{"rootdirectory": dir}}}
	config.Log.Level, config.Log.AccessLog.Disabled = "panic", true
	config.HTTP.Secret = "test"
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	server := httptest.NewServer(handlers.NewApp(ctx, config))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), dir
}
