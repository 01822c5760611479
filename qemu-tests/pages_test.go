package qemutests

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// TestEvidencePages needs no machine: it opens the reports of the golden files in
// a real browser. The parts of TestOperate do the same with a machine's own.
func TestEvidencePages(t *testing.T) {
	for name, file := range map[string]string{"proof": "../profiles/evidence/testdata/report.html", "risk": "../firstboot/risk/testdata/risk.html"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { browse(t, name, string(text)) })
	}
	t.Run("BadPage", badPage)
}

func (o *operated) readable(t *testing.T) {
	if len(o.pages) != 3 {
		t.Fatalf("there are %d pages, want risk snapshot, overview and proof", len(o.pages))
	}
	for name, text := range o.pages {
		t.Run(name, func(t *testing.T) { browse(t, name, text) })
	}
}

// browser starts Chromium, headless, with a profile of its own.
func browser(t *testing.T) context.Context {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		cannot(t, "chromium is not installed: %v", err)
	}
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), chromedp.ExecPath("chromium"), chromedp.UserDataDir(t.TempDir()), chromedp.Headless, chromedp.NoSandbox,
		chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.WSURLReadTimeout(2*time.Minute))
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(func() {
		chromedp.Cancel(ctx) // waits for Chromium to end, so that its profile can be removed
		cancel()
	})
	ctx, cancel = context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// view is one way to look at a page.
type view struct {
	name          string
	width, height int64
	dark, print   bool
}

var views = []view{
	{name: "phone", width: 390, height: 844},
	{name: "phone-dark", width: 390, height: 844, dark: true},
	{name: "desktop", width: 1280, height: 900},
	{name: "desktop-dark", width: 1280, height: 900, dark: true},
	{name: "print", width: 794, height: 1123, print: true}, // A4 at 96 dpi
}

// browse opens a page from a file, in each view, and lets the browser judge it.
func browse(t *testing.T, name, text string) {
	t.Helper()
	if faults := judge(t, name, text); len(faults) > 0 {
		t.Errorf("%s:\n  %s", name, strings.Join(faults, "\n  "))
	}
}

// judge is what a browser finds wrong with a page.
func judge(t *testing.T, name, text string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := browser(t)
	var mu sync.Mutex
	var asked []string
	err := chromedp.Listen(ctx, func(ev any) {
		if r, ok := ev.(*network.EventRequestWillBeSent); ok {
			mu.Lock()
			asked = append(asked, r.Request.URL)
			mu.Unlock()
		}
	})
	if err == nil {
		_, err = chromedp.Call(ctx, network.Enable, network.EnableParams{})
	}
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	own := (&url.URL{Scheme: "file", Path: file}).String()
	var faults []string
	for _, v := range views {
		scheme, media := "light", "screen"
		if v.dark {
			scheme = "dark"
		}
		if v.print {
			media = "print"
		}
		_, err1 := chromedp.Call(ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: v.width, Height: v.height, DeviceScaleFactor: 1, Mobile: v.width < 600})
		_, err2 := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: media, Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		if err := errors.Join(err1, err2, chromedp.Do(ctx, chromedp.Navigate(own))); err != nil {
			t.Fatalf("%s, %s: %v", name, v.name, err)
		}
		found, err1 := chromedp.Run(ctx, chromedp.Evaluate[[]string](inspection))
		shot, err2 := chromedp.Run(ctx, chromedp.CaptureScreenshot())
		if err := errors.Join(err1, err2); err != nil {
			t.Fatalf("%s, %s: %v", name, v.name, err)
		}
		for _, f := range found {
			faults = append(faults, v.name+": "+f)
		}
		if err := os.WriteFile(filepath.Join(artifacts(t), fmt.Sprintf("%s-%s.png", name, v.name)), shot, 0o644); err != nil {
			t.Fatal(err)
		}
		if len(shot) < 1000 {
			faults = append(faults, fmt.Sprintf("%s: the screenshot has %d bytes", v.name, len(shot)))
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) < len(views) {
		t.Fatalf("%s: the browser asked for %q: the page was not opened", name, asked)
	}
	for _, u := range asked {
		if u != own {
			faults = append(faults, "it needs "+u)
		}
	}
	return faults
}

// badPage shows that the judge is able to find each fault.
func badPage(t *testing.T) {
	const bad = `<!doctype html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title></title>
<style>.pale{color:#999;background:#fff}.wide{width:2000px}</style><link rel="stylesheet" href="http://127.0.0.1:9/x.css"></head>
<body><p class="pale">pale words</p><p class="wide">wide</p><img src="file:///nowhere.png"><a href="#none">link</a>
<table><tr><td>a</td></tr></table></body></html>`
	got := strings.Join(judge(t, "bad", bad), "\n")
	for _, want := range []string{`contrast 2.8 of "pale words"`, "wider than the screen", "it needs http://127.0.0.1:9/x.css", "it needs file:///nowhere.png", "a table without a header cell", "no lang", "no title", "no h1",
		"an image without a text", "link to #none"} {
		if !strings.Contains(got, want) {
			t.Errorf("the judge does not say %q:\n%s", want, got)
		}
	}
	if slices.Contains(strings.Split(got, "\n"), "") {
		t.Error("an empty fault")
	}
}

// inspection looks at what WCAG 2.2 calls 1.1.1, 1.3.1, 1.4.3 (AA), 1.4.10,
// 2.4.2, 2.4.4 and 3.1.1, in the page as it is laid out now.
const inspection = `(() => {
const faults = new Set();
const say = s => { if (faults.size < 40) faults.add(s) };
if (!document.documentElement.lang) say('no lang');
if (!document.title.trim()) say('no title');
if (document.querySelectorAll('h1').length !== 1) say('no h1, or more than one');
const shown = e => { const r = e.getBoundingClientRect(); return r.width > 1 && r.height > 1 && getComputedStyle(e).visibility !== 'hidden' };
if (!matchMedia('print').matches && document.documentElement.scrollWidth > innerWidth + 1) say('it is wider than the screen: ' + document.documentElement.scrollWidth);
for (const i of document.images) if (!i.alt) say('an image without a text');
for (const a of document.querySelectorAll('a')) {
  if (!a.textContent.trim()) say('a link without a text');
  const h = a.getAttribute('href') || '';
  if (h.startsWith('#') && !document.getElementById(h.slice(1))) say('link to ' + h + ', which is not there');
}
let level = 0;
for (const h of document.querySelectorAll('h1,h2,h3,h4')) {
  const n = +h.tagName[1];
  if (n > level + 1) say('heading "' + h.textContent.trim().slice(0, 30) + '" skips a level');
  level = n;
}
for (const t of document.querySelectorAll('table')) {
  const heads = t.querySelectorAll('th');
  if (heads.length === 0) say('a table without a header cell');
  for (const h of heads) {
    if (!['col', 'row', 'colgroup', 'rowgroup'].includes(h.scope)) say('header cell "' + h.textContent.trim().slice(0, 30) + '" without a scope');
    if (!h.textContent.trim()) say('an empty header cell');
  }
  if (!t.caption && !t.getAttribute('aria-label') && !t.getAttribute('aria-labelledby')) say('a table without a caption: ' + t.textContent.trim().slice(0, 30));
  // Where the header row is not shown, each cell says itself what it is.
  const head = t.tHead;
  if (head && !shown(head.rows[0].cells[0])) for (const c of t.querySelectorAll('tbody td')) {
    if (!c.dataset.label && c.cellIndex > 1 && c.colSpan === 1) { say('a cell whose header is not shown has no label: ' + c.textContent.trim().slice(0, 30)); break }
  }
}
const parse = s => { const m = s.match(/[\d.]+/g).map(Number); return [m[0], m[1], m[2], m.length > 3 ? m[3] : 1] };
const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
const ground = e => { const stack = []; for (; e; e = e.parentElement) stack.push(parse(getComputedStyle(e).backgroundColor)); 
  const canvas = !matchMedia('print').matches && matchMedia('(prefers-color-scheme: dark)').matches && getComputedStyle(document.documentElement).colorScheme.includes('dark') ? [18, 18, 18, 1] : [255, 255, 255, 1];
  return stack.reverse().reduce((b, a) => over(a, b), canvas) };
const light = c => { const f = v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 }; return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]) };
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let looked = 0;
for (let n; n = texts.nextNode();) {
  const e = n.parentElement, words = n.textContent.trim();
  if (!words || ['STYLE', 'SCRIPT'].includes(e.tagName) || !shown(e)) continue;
  const style = getComputedStyle(e), back = ground(e), fore = over(parse(style.color), back);
  const [a, b] = [light(fore), light(back)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
  const size = parseFloat(style.fontSize), large = size >= 24 || size >= 18.66 && style.fontWeight >= 700;
  looked++;
  if (ratio < (large ? 3 : 4.5)) say('contrast ' + ratio.toFixed(1) + ' of "' + words.slice(0, 30) + '"');
  if (!matchMedia('print').matches && size < 12) say('letters of ' + size + ' px: "' + words.slice(0, 30) + '"');
}
if (looked === 0) say('there is no text');
return [...faults];
})()`
