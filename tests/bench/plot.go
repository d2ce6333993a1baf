package main

import (
	"image/color"
	"math"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// colours that colour-blind readers can tell apart (Okabe and Ito).
var colours = []color.RGBA{
	{0, 114, 178, 255},
	{230, 159, 0, 255},
	{0, 158, 115, 255},
	{204, 121, 167, 255},
	{86, 180, 233, 255},
	{213, 94, 0, 255},
	{90, 90, 90, 255},
}

// chart is a chart of groups of bars, on a logarithmic scale: what is compared
// lies magnitudes apart.
type chart struct {
	name, title, unit string
	groups            []string
	bars              []bar
}

// fromFloor is a logarithmic scale on which bars can stand: their foot is 0.
type fromFloor struct{ plot.LogScale }

// Normalize implements [plot.Normalizer].
func (s fromFloor) Normalize(low, high, value float64) float64 {
	return s.LogScale.Normalize(low, high, max(low, value))
}

// bar is one subject, with a value for each group; 0 where it has none.
type bar struct {
	name   string
	values []float64
}

// draw writes the chart as an SVG.
func (b *bench) draw(c chart) error {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = c.title, c.unit
	p.NominalX(c.groups...)
	p.Legend.Top = true
	p.Legend.Padding = vg.Points(2)
	low, high := math.Inf(1), 0.0
	for _, one := range c.bars {
		for _, value := range one.values {
			if value > 0 {
				low, high = min(low, value), max(high, value)
			}
		}
	}
	if high == 0 {
		return nil // nothing was measured
	}
	floor := math.Pow(10, math.Floor(math.Log10(low)))
	p.Y.Scale, p.Y.Tick.Marker = fromFloor{}, plot.LogTicks{Prec: -1}
	width := vg.Points(min(16, 360/float64(len(c.bars)*len(c.groups))))
	for i, one := range c.bars {
		bars, err := plotter.NewBarChart(plotter.Values(one.values), width)
		if err != nil {
			return err
		}
		bars.Color, bars.LineStyle.Width = colours[i%len(colours)], 0
		bars.Offset = width * vg.Length(float64(i)-float64(len(c.bars)-1)/2)
		p.Add(bars)
		p.Legend.Add(one.name, bars)
	}
	p.Y.Min, p.Y.Max = floor, math.Pow(10, math.Ceil(math.Log10(high))+0.6) // room for the legend
	folder := filepath.Join(b.out, "benchmarks")
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return err
	}
	return p.Save(16*vg.Centimeter, 10*vg.Centimeter, filepath.Join(folder, c.name+".svg"))
}
