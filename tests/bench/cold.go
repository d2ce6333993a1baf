package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"rayexecutor/minder"
	"rayexecutor/tests/freeport"
	"rayexecutor/tests/system"
)

// program is something that can be started from nothing.
type program struct {
	name string
	// size is what it weighs, packed what it is shipped as where that was built:
	// files.
	size   float64
	packed string
	// begin starts the process and returns once it has accepted a submission.
	begin func(ctx context.Context, dir string) (*exec.Cmd, error)
}

// restFor is how long a process is left alone before its memory is read.
const restFor = 2 * time.Second

// cold measures from the start of a process to its first accepted submission,
// and what it weighs.
func (b *bench) cold(ctx context.Context) (*section, error) {
	front, err := b.front(ctx, "cold")
	if err != nil {
		return nil, err
	}
	defer front.Close()
	programs, err := b.programs(ctx, front)
	if err != nil {
		return nil, err
	}
	var took, rest, own figures
	for round := range max(5, b.rounds) {
		for _, program := range programs {
			begun := time.Now()
			command, err := program.begin(ctx, b.dir)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", program.name, err)
			}
			took.add(program.name, float64(time.Since(begun))/1e6)
			time.Sleep(restFor)
			rest.add(program.name, resident(command.Process.Pid, "VmRSS")/1e6)
			own.add(program.name, resident(command.Process.Pid, "RssAnon")/1e6)
			_ = command.Process.Kill()
			_ = command.Wait() // killed
			b.sayf("round %d, %-24s %s ms, at rest %s MB", round+1, program.name, number(took.of(program.name)[round]), number(rest.of(program.name)[round]))
		}
	}
	return b.coldSection(programs, &took, &rest, &own), nil
}

// programs are what is compared.
func (b *bench) programs(ctx context.Context, front *system.System) ([]program, error) {
	binary := filepath.Join(system.Root(), "bin", "ray-executor")
	bootstrap := filepath.Join(system.Root(), "dist", "lambda", runtime.GOARCH, "bootstrap")
	python := filepath.Join(system.Venv(), "bin", "python")
	scaffolded, err := b.scaffold(ctx, front)
	if err != nil {
		return nil, fmt.Errorf("func: %w", err)
	}
	wheels, err := filepath.Glob(filepath.Join(system.Root(), "ray", "worker", "wheels", "*.whl"))
	if err != nil {
		return nil, err
	}
	packages, err := packagesSize(python)
	if err != nil {
		return nil, err
	}
	image := filepath.Join(system.Root(), "dist", "image", runtime.GOARCH+".tar") // `make image`
	shipped := filepath.Join(system.Root(), "dist", "image", "bin", runtime.GOARCH)
	environ := slices.Clip(front.Environ())
	return []program{
		{"serve, in the image", sizeOf(shipped), image, server(environ, shipped, "serve")},
		{"the same, without a keeper", sizeOf(shipped), image, server(append(environ, "KEEPER=false"), shipped, "serve")},
		{"serve, bin/ray-executor", sizeOf(binary), "", server(environ, binary, "serve")},
		{"function built by func", sizeOf(scaffolded), "", server(environ, scaffolded)},
		{"Lambda bootstrap", sizeOf(bootstrap), bootstrap + ".zip", lambda(environ, bootstrap)},
		{"FastAPI function, Python", packages, "", server(append(environ, "PYTHONPATH="+strings.Join(wheels, ":")), python, filepath.Join(scripts(), "function.py"))},
	}, nil
}

// server begins a program that serves HTTP, and asks until it accepts.
func server(environ []string, name string, args ...string) func(context.Context, string) (*exec.Cmd, error) {
	return func(ctx context.Context, dir string) (*exec.Cmd, error) {
		port, err := freeport.Take()
		if err != nil {
			return nil, err
		}
		address := "127.0.0.1:" + strconv.Itoa(port)
		data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(request(3))
		if err != nil {
			return nil, err
		}
		command, err := begin(slices.Concat(environ, []string{"PORT=" + strconv.Itoa(port), "LISTEN_ADDRESS=" + address}), dir, name, args...)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		for ctx.Err() == nil {
			if err = knock(ctx, address, data); err == nil {
				return command, nil
			}
			time.Sleep(200 * time.Microsecond)
		}
		_ = command.Process.Kill()
		said, _ := os.ReadFile(filepath.Join(dir, programLog))
		return nil, fmt.Errorf("nothing is accepted: %w\n%s", err, said)
	}
}

// knock submits once, on a connection of its own.
func knock(ctx context.Context, address string, data []byte) error {
	if conn, err := net.Dial("tcp", address); err != nil {
		return err
	} else if err := conn.Close(); err != nil {
		return err
	}
	all, closeAll, err := wires("http://"+address, 1)
	if err != nil {
		return err
	}
	defer closeAll()
	_, err = all[0].post(ctx, "/", data, "Ce-Specversion", "1.0", "Ce-Id", fresh(), "Ce-Source", "/bench",
		"Ce-Type", "ray_executor.v1.ExecuteDeliberationRequest", "Content-Type", "application/json")
	return err
}

// programLog is what the last one wrote.
const programLog = "program.log"

func begin(environ []string, dir, name string, args ...string) (*exec.Cmd, error) {
	command := system.Command(environ, name, args...)
	command.Dir = dir
	log, err := os.Create(filepath.Join(dir, programLog))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	return command, command.Start()
}

// lambda begins the bootstrap with a Runtime API that has one invocation for
// it: a submission through a Function URL.
func lambda(environ []string, bootstrap string) func(context.Context, string) (*exec.Cmd, error) {
	return func(ctx context.Context, dir string) (*exec.Cmd, error) {
		payload, err := functionURL()
		if err != nil {
			return nil, err
		}
		answers := make(chan []byte, 1)
		var once sync.Once
		mux := http.NewServeMux()
		mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", func(w http.ResponseWriter, r *http.Request) {
			first := false
			once.Do(func() { first = true })
			if !first {
				<-r.Context().Done()
				return
			}
			w.Header().Set("Lambda-Runtime-Aws-Request-Id", "1")
			w.Header().Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(time.Now().Add(20*time.Second).UnixMilli(), 10))
			_, _ = w.Write(payload)
		})
		mux.HandleFunc("POST /2018-06-01/runtime/invocation/1/{outcome}", func(w http.ResponseWriter, r *http.Request) {
			answer, _ := io.ReadAll(r.Body)
			w.WriteHeader(http.StatusAccepted)
			answers <- answer
		})
		mux.HandleFunc("POST /2020-01-01/extension/register", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Lambda-Extension-Identifier", "bench")
		})
		mux.HandleFunc("GET /2020-01-01/extension/event/next", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		api := httptest.NewServer(mux) // it lasts as long as the bench: closing it would end the bootstrap
		command, err := begin(append(environ, "AWS_LAMBDA_RUNTIME_API="+strings.TrimPrefix(api.URL, "http://")), dir, bootstrap)
		if err != nil {
			return nil, err
		}
		select {
		case answer := <-answers:
			if !bytes.Contains(answer, []byte("submitted")) {
				return nil, fmt.Errorf("it answers %s", answer)
			}
			return command, nil
		case <-time.After(30 * time.Second):
			return nil, fmt.Errorf("it does not answer: %w", context.Cause(ctx))
		}
	}
}

// functionURL is a submission as a Function URL hands it on.
func functionURL() ([]byte, error) {
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(request(3))
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"version": "2.0", "routeKey": "$default", "rawPath": "/",
		"headers": map[string]string{
			"content-type": "application/json", "ce-specversion": "1.0", "ce-id": fresh(), "ce-source": "/bench",
			"ce-type": "ray_executor.v1.ExecuteDeliberationRequest",
		},
		"requestContext": map[string]any{
			"stage": "$default", "domainName": "abc.lambda-url.eu-west-1.on.aws",
			"http": map[string]string{"method": "POST", "path": "/", "sourceIp": "192.0.2.1"},
		},
		"body": base64.StdEncoding.EncodeToString(data), "isBase64Encoded": true,
	})
}

// scaffold has func build the function and returns the program that it runs.
func (b *bench) scaffold(ctx context.Context, front *system.System) (string, error) {
	port, err := freeport.Take()
	if err != nil {
		return "", err
	}
	work := filepath.Join(b.dir, "function")
	if err := copyTracked(ctx, system.Root(), work); err != nil {
		return "", err
	}
	settings := ""
	for _, setting := range front.Environ() {
		for _, name := range []string{"NATS_URL=", "VLLM_URL=", "VLLM_MODEL=", "RAY_ADDRESS="} {
			if strings.HasPrefix(setting, name) {
				settings += setting + "\n"
			}
		}
	}
	if err := os.WriteFile(filepath.Join(work, "ray-executor.env"), []byte(settings), 0o600); err != nil {
		return "", err
	}
	b.sayf("func builds the function")
	address := "127.0.0.1:" + strconv.Itoa(port)
	output, err := os.Create(filepath.Join(b.dir, "func.log"))
	if err != nil {
		return "", err
	}
	defer output.Close()
	binary := cmp.Or(os.Getenv("FUNC_CLI"), filepath.Join(system.Root(), ".tools", "func"))
	family, err := minder.Start(minder.Program{
		Line: []string{binary, "run", "--builder=host", "--address", address},
		// Without cgo, as func builds it for an image.
		Env: append(os.Environ(), "XDG_CONFIG_HOME="+b.dir, "FUNC_VERBOSE=false", "CGO_ENABLED=0"), Dir: work, Output: output, Grace: time.Second,
	})
	if err != nil {
		return "", err
	}
	defer family.Kill() // the function too
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(request(3))
	if err != nil {
		return "", err
	}
	for end := time.Now().Add(8 * time.Minute); knock(ctx, address, data) != nil; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) || ctx.Err() != nil {
			printed, _ := os.ReadFile(output.Name())
			return "", fmt.Errorf("the function does not start: %s", printed)
		}
	}
	running, err := exec.CommandContext(ctx, "pgrep", "-P", strconv.Itoa(family.Pid())).Output()
	if err != nil {
		return "", err
	}
	// A copy: func's own goes with the folder, and it is busy.
	program := filepath.Join(b.dir, "scaffolded")
	return program, copyFile(filepath.Join("/proc", string(bytes.TrimSpace(running)), "exe"), program)
}

// copyTracked copies what git tracks.
func copyTracked(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(to, 0o750); err != nil {
		return err
	}
	command := exec.CommandContext(ctx, "bash", "-c", `git ls-files -z | xargs -0 cp --parents --no-dereference -t "$0"`, to)
	command.Dir = from
	if printed, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, printed)
	}
	return nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o700)
}

// sizeOf is a file's size, in MB.
func sizeOf(path string) float64 {
	about, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return float64(about.Size()) / 1e6
}

// packagesSize is what the Python function needs: the interpreter, its library
// and the packages that it imports, in MB.
func packagesSize(python string) (float64, error) {
	out, err := exec.Command(python, "-c", `
import importlib.metadata as m, os, re, sys, sysconfig
def tree(path):
    return sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(path) if "site-packages" not in d and "__pycache__" not in d for f in fs)
size, todo, seen = tree(sysconfig.get_path("stdlib")), ["fastapi", "uvicorn"], set()
while todo:
    name = todo.pop()
    if name in seen: continue
    seen.add(name)
    try: found = m.distribution(name)
    except m.PackageNotFoundError: continue
    size += sum(os.path.getsize(f.locate()) for f in found.files or [] if os.path.exists(f.locate()))
    todo += [re.match(r"[\w.-]+", r)[0] for r in found.requires or [] if "extra ==" not in r]
print(size / 1e6)`).Output()
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}

// resident is a process's memory of a kind, in bytes.
func resident(pid int, kind string) float64 {
	size, _, _ := strings.Cut(after(filepath.Join("/proc", strconv.Itoa(pid), "status"), kind), " ")
	kilobytes, _ := strconv.ParseFloat(size, 64)
	return kilobytes * 1024
}

// archive is a file's size, nothing where it was not built.
func archive(path string) string {
	if size := sizeOf(path); size > 0 {
		return number(size)
	}
	return ""
}

func (b *bench) coldSection(programs []program, took, rest, own *figures) *section {
	s := &section{title: "Cold start"}
	s.textf("From the start of the process until it has answered its first submission, over a new connection to NATS; memory (RSS) 2 s " +
		"later, and what of it is not pages of the program's own file, which the kernel drops when it needs the room; the program, " +
		"for Python the standard library and the packages that are imported; and the image's or the function's archive. bin/ray-executor " +
		"has a NATS server in it, for `dev`, which the image's program has not. The function and Lambda's bootstrap run no keeper.")
	rows := [][]string{{"", "to the first acceptance, ms", "at rest, MB", "of it not file, MB", "program, MB", "archive, MB"}}
	for _, program := range programs {
		rows = append(rows, []string{program.name, took.of(program.name).String(), rest.of(program.name).String(), own.of(program.name).String(), number(program.size), archive(program.packed)})
	}
	s.table(rows...)
	for _, program := range programs[:5] {
		start, size := took.of(program.name).median(), rest.of(program.name).median()
		b.want("cold start, "+program.name, "less than 50 ms", number(start)+" ms", start < 50)
		b.want("at rest, "+program.name, "30 MB or less", number(size)+" MB", size <= 30)
	}
	return s
}
