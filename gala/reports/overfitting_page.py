"""What stands where on the page of an overfitting report; ``page`` gives the frame."""

STYLE = """.verdict { font-size: 2.4rem; font-weight: 700; margin: 0 }
table { margin-bottom: 1rem }
"""
BODY = """<p class="verdict" style="color:{color}">{verdict}</p>
<p><b>{what}</b>. Gap {interval} ({kind}; equivalence margin {delta}). In words: {why}.</p>
<ul class="checks">{checks}</ul>
<p>{sign}. OVERFIT: the interval lies above 0. NO-GAP: it lies within the margin. INCONCLUSIVE: neither.</p>
{overview}
{table}
<h2>Panels</h2>
<div class="figures">{panels}</div>
<h2>Threats to validity</h2>
<ul>{threats}</ul>
<h2>Made with</h2>
<div class=wide><table class="facts">{facts}</table></div>
<p>Again: <code>{command}</code></p>
"""
