// Package docs compares the pages with what they name: links, settings,
// metrics, tests and files.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"rayexecutor/config"
	"rayexecutor/tests/system"
)

// pages returns the text of every page, by its path below the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths := []string{"README.md", "ARCHITECTURE.md", "CHANGELOG.md", "tests/docs-questions.md"}
	found, err := filepath.Glob(filepath.Join(system.Root(), "docs", "*.md"))
	if err != nil || len(found) < 10 {
		t.Fatalf("docs has %d pages, %v", len(found), err)
	}
	for _, path := range found {
		paths = append(paths, "docs/"+filepath.Base(path))
	}
	texts := make(map[string]string)
	for _, path := range paths {
		texts[path] = read(t, path)
	}
	return texts
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(system.Root(), path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var (
	fenced   = regexp.MustCompile("(?ms)^```.*?^```")
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notAName = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// anchors returns the anchors that GitHub gives to a page's headings.
func anchors(text string) []string {
	var names []string
	for _, found := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		name := notAName.ReplaceAllString(strings.ToLower(found[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	texts := pages(t)
	for page, text := range texts {
		for _, found := range link.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			file, anchor, named := strings.Cut(found[1], "#")
			path := page
			if file != "" {
				path = filepath.ToSlash(filepath.Join(filepath.Dir(page), file))
			}
			if _, err := os.Stat(filepath.Join(system.Root(), path)); err != nil {
				t.Errorf("%s: %s: there is no such file", page, found[1])
			} else if named && !slices.Contains(anchors(read(t, path)), anchor) {
				t.Errorf("%s: %s: there is no such heading", page, found[1])
			}
		}
	}
}

// Each of the twenty questions links to the place of its answer.
func TestQuestionsHaveAnswers(t *testing.T) {
	t.Parallel()
	questions := regexp.MustCompile(`(?m)^\d+\. .*$`).FindAllString(read(t, "tests/docs-questions.md"), -1)
	if len(questions) != 20 {
		t.Errorf("there are %d questions", len(questions))
	}
	for _, question := range questions {
		if !strings.Contains(question, ".md#") {
			t.Errorf("no link to a section: %s", question)
		}
	}
}

// The table of settings has every setting, and no other one.
func TestSettingsAreListed(t *testing.T) {
	t.Parallel()
	page := read(t, "docs/settings.md")
	for _, name := range config.Names() {
		// A setting is listed together with the one that names a file.
		if value := strings.TrimSuffix(name, "_FILE"); !strings.Contains(page, "`"+value+"`") {
			t.Errorf("docs/settings.md lacks %s", name)
		}
	}
	ofGo := []string{"GOMEMLIMIT"}
	known := append(config.Names(), ofGo...)
	name := regexp.MustCompile("`([A-Z_]{3,})`")
	for _, row := range regexp.MustCompile("(?m)^\\| (`[A-Z_]+`[^|]*) \\|[^|]*\\|[^|]*\\|$").FindAllStringSubmatch(page, -1) {
		for _, found := range name.FindAllStringSubmatch(row[1], -1) {
			if !slices.Contains(known, found[1]) {
				t.Errorf("docs/settings.md lists %s, which is no setting", found[1])
			}
		}
	}
}

// named lists what pages name in backticks and its pattern accepts.
func named(texts map[string]string, pattern string) map[string]string {
	names := make(map[string]string)
	for page, text := range texts {
		if page == "CHANGELOG.md" {
			continue // it names what no longer exists too
		}
		for _, found := range regexp.MustCompile("`("+pattern+")`").FindAllStringSubmatch(text, -1) {
			names[found[1]] = page
		}
	}
	return names
}

func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	code := sources(t, ".go", ".py")
	names := named(pages(t), `(?:Test|Benchmark)[A-Z]\w+|test_\w+`)
	if len(names) < 20 {
		t.Errorf("the pages name %d tests", len(names))
	}
	for name, page := range names {
		if !strings.Contains(code, "func "+name+"(") && !strings.Contains(code, "def "+name+"(") {
			t.Errorf("%s: there is no test %s", page, name)
		}
	}
}

func TestNamedMetricsExist(t *testing.T) {
	t.Parallel()
	code := sources(t, ".go", ".py")
	for page, text := range pages(t) {
		for _, name := range regexp.MustCompile(`\bray_executor_[a-z_]+[a-z]\b`).FindAllString(text, -1) {
			worker := strings.TrimPrefix(name, "ray_") // Ray puts this before the worker's names
			if name != "ray_executor_worker" && !strings.Contains(code, `"`+name+`"`) && !strings.Contains(code, `"`+worker+`"`) {
				t.Errorf("%s: there is no metric %s", page, name)
			}
		}
	}
}

// A file is named by its path from the root, or from a folder of the code.
func TestNamedFilesExist(t *testing.T) {
	t.Parallel()
	var files strings.Builder
	walk(t, func(path string) { files.WriteString("/" + path + "\n") })
	for name, page := range named(pages(t), `[\w./-]+\.(?:go|py|tla|proto|yaml|conf|md|sh)`) {
		if first, _, deep := strings.Cut(name, "/"); deep && strings.Contains(first, ".") || first == "" {
			continue // a module, or a path on the reader's machine
		}
		if !strings.Contains(files.String(), "/"+name+"\n") {
			t.Errorf("%s: there is no file %s", page, name)
		}
	}
}

// ARCHITECTURE.md names types, functions and methods of the code.
func TestNamedCodeExists(t *testing.T) {
	t.Parallel()
	code := sources(t, ".go", ".py")
	names := named(map[string]string{"ARCHITECTURE.md": read(t, "ARCHITECTURE.md")}, `[A-Z]\w+\.[A-Za-z_]\w+|[a-z]+[A-Z]\w+`)
	if len(names) < 15 {
		t.Errorf("ARCHITECTURE.md names %d functions", len(names))
	}
	for name := range names {
		_, last, _ := strings.Cut(name, ".")
		if last == "" {
			last = name
		}
		defined := regexp.MustCompile(`(?m)^\s*(?:func (?:\([^)]*\) )?|def |async def |type |class |const |var )` + last + `\b`)
		if !defined.MatchString(code) {
			t.Errorf("the code has no %s", name)
		}
	}
}

// sources returns the project's own files with these endings, one after the other.
func sources(t *testing.T, endings ...string) string {
	t.Helper()
	var text strings.Builder
	walk(t, func(path string) {
		if slices.Contains(endings, filepath.Ext(path)) {
			text.WriteString(read(t, path))
		}
	})
	return text.String()
}

// walk visits the project's files, without what is downloaded or built.
func walk(t *testing.T, visit func(path string)) {
	t.Helper()
	err := filepath.WalkDir(system.Root(), func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != system.Root() && (strings.HasPrefix(entry.Name(), ".") || slices.Contains([]string{"bin", "dist", "wheels", "__pycache__"}, entry.Name())) {
			return filepath.SkipDir
		}
		if entry.Type().IsRegular() {
			relative, err := filepath.Rel(system.Root(), path)
			if err != nil {
				return err
			}
			visit(filepath.ToSlash(relative))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
