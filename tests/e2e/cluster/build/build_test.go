package build

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestStepRunsOnlyWhenNeeded(t *testing.T) {
	root := t.TempDir()
	b := Builder{Root: root, Say: func(string, ...any) {}}
	input, output := filepath.Join(root, "input"), filepath.Join(root, "out", "output")
	runs := 0
	build := func() error {
		return b.do(step{name: "it", inputs: []string{input}, outputs: []string{output}, run: func() error {
			runs++
			return os.WriteFile(output, nil, 0o644)
		}})
	}
	expect := func(what string, want int) {
		t.Helper()
		if err := build(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if runs != want {
			t.Errorf("%s: ran %d times, want %d", what, runs, want)
		}
	}
	if err := build(); err == nil {
		t.Error("a missing input gave no error")
	}
	if err := os.WriteFile(input, []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	expect("first", 1)
	expect("again", 1)
	if err := os.WriteFile(input, []byte("2"), 0o644); err != nil {
		t.Fatal(err)
	}
	expect("input changed", 2)
	if err := os.Remove(output); err != nil {
		t.Fatal(err)
	}
	expect("output lost", 3)
}

func TestFailedStepRunsAgain(t *testing.T) {
	b := Builder{Root: t.TempDir(), Say: func(string, ...any) {}}
	failed := errors.New("failed")
	for range 2 {
		err := b.do(step{name: "it", inputs: []string{"=1"}, run: func() error { return failed }})
		if !errors.Is(err, failed) {
			t.Fatalf("got %v", err)
		}
	}
}

func TestTogetherBuildsWhatIsOutdated(t *testing.T) {
	b := Builder{Root: t.TempDir(), Say: func(string, ...any) {}}
	var built []string
	build := func(inputs map[string]string, failure error) error {
		built = nil
		var steps []step
		for _, name := range []string{"one", "two"} {
			steps = append(steps, step{name: name, inputs: []string{"=" + inputs[name]}, outputs: []string{b.Bin(name)}})
		}
		return b.together(steps, func(outdated []step) error {
			for _, s := range outdated {
				built = append(built, s.name)
				if err := os.WriteFile(s.outputs[0], nil, 0o644); err != nil {
					return err
				}
			}
			return failure
		})
	}
	for _, c := range []struct {
		inputs  map[string]string
		failure error
		want    []string
	}{
		{map[string]string{"one": "1", "two": "1"}, nil, []string{"one", "two"}},
		{map[string]string{"one": "1", "two": "1"}, nil, nil},
		{map[string]string{"one": "1", "two": "2"}, errors.New("failed"), []string{"two"}},
		{map[string]string{"one": "1", "two": "2"}, nil, []string{"two"}},
	} {
		if err := build(c.inputs, c.failure); !errors.Is(err, c.failure) {
			t.Errorf("%v: got %v, want %v", c.inputs, err, c.failure)
		}
		if !slices.Equal(built, c.want) {
			t.Errorf("%v: built %v, want %v", c.inputs, built, c.want)
		}
	}
}
