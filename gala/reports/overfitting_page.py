"""The page of an overfitting report: one file, without scripts and without anything from a network."""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>gala overfit</title>
<style>
:root {{ color-scheme: light dark; --text: #222; --page: #fff; --line: #ddd; --code: #f3f3f3 }}
@media (prefers-color-scheme: dark) {{ :root {{ --text: #ddd; --page: #17181a; --line: #444; --code: #2a2b2e }}
  .verdict, p span {{ filter: brightness(1.7) }} img {{ background: #fff; border-radius: 4px }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--text); background: var(--page); overflow-wrap: anywhere }}
.verdict {{ font-size: 2.4rem; font-weight: 700; color: {color}; margin: 0 }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; margin: 1rem 0; font-size: 14px }}
th, td {{ padding: .2rem .55rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
.facts td {{ white-space: normal; text-align: left; vertical-align: top }}
.facts td:first-child {{ white-space: nowrap }}
.panels {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem }}
img {{ max-width: 100% }}
code {{ background: var(--code); padding: .1rem .3rem; overflow-wrap: anywhere }}
</style>
<p class="verdict">{verdict}</p>
<p><b>{what}</b>. Gap {interval} ({kind}; equivalence margin {delta}). In words: {why}.</p>
<ul class="checks">{checks}</ul>
<p>{sign}. OVERFIT: the interval lies above 0. NO-GAP: it lies within the margin. INCONCLUSIVE: neither.</p>
{overview}
{table}
<h2>Panels</h2>
<div class="panels">{panels}</div>
<h2>Threats to validity</h2>
<ul>{threats}</ul>
<h2>Made with</h2>
<table class="facts">{facts}</table>
<p>Again: <code>{command}</code></p>
</html>
"""
