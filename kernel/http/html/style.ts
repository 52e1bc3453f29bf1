/** The style of every page, put into its head. Light or dark as the reader's system is. */
export const style = `
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1c2530;--dim:#5d6b7a;--line:#e1e6eb;
--link:#0b5cad;--code:#f0f3f6;--good:#1a7f45;--bad:#b42330;--busy:#9a6200;--calm:#4b5b6c}
@media (prefers-color-scheme:dark){:root{--bg:#12171d;--card:#1a2129;--ink:#e4e9ee;--dim:#93a1af;
--line:#2b3540;--link:#6cb2ff;--code:#222b35;--good:#4cc482;--bad:#ff7b84;--busy:#e5b455;--calm:#9fb0c0}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,sans-serif}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:3px}
header.top{background:var(--card);border-bottom:1px solid var(--line)}
header.top>div,main,footer{max-width:72rem;margin:0 auto;padding:0 1.25rem}
header.top>div{display:flex;gap:1.5rem;align-items:center;min-height:3.25rem;flex-wrap:wrap}
header.top .brand{font-weight:700;color:var(--ink);letter-spacing:.01em}
header.top nav{display:flex;gap:1rem;flex-wrap:wrap}
header.top .who{margin-left:auto;color:var(--dim);font-size:.85rem;overflow-wrap:anywhere}
.crumbs{margin:1.25rem 0 0;color:var(--dim);font-size:.875rem;overflow-wrap:anywhere}
.crumbs a+a::before,.crumbs a+span::before{content:"/";color:var(--dim);margin:0 .45rem;display:inline-block}
h1{font-size:1.55rem;line-height:1.25;margin:.35rem 0 .25rem;overflow-wrap:anywhere}
h1 .badge{vertical-align:middle;margin-left:.5rem}
h2{font-size:1rem;margin:0;padding:.75rem 1rem;border-bottom:1px solid var(--line)}
h2 small{color:var(--dim);font-weight:400;margin-left:.4rem}
h3{font-size:.9rem;margin:1rem 0 .35rem}
.lead{color:var(--dim);margin:0 0 1rem;max-width:60rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;margin:0 0 1.1rem;overflow:hidden}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.5rem 1rem;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
tr:last-child>th,tr:last-child>td{border-bottom:0}
tbody tr:hover>td{background:color-mix(in srgb,var(--link) 5%,transparent)}
thead th{font-size:.78rem;font-weight:600;color:var(--dim);white-space:nowrap}
th[scope=row]{width:14rem;font-weight:500;color:var(--dim)}td th[scope=row]{width:16rem}
td table{border:1px solid var(--line);border-radius:.4rem;border-collapse:separate;border-spacing:0}
td.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
code,pre,.mono{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{background:var(--code);border-radius:.3rem;padding:.1rem .35rem;overflow-wrap:anywhere}
pre{margin:0;padding:.75rem 1rem;white-space:pre-wrap;overflow-wrap:anywhere}
ol.log{margin:0;padding:.6rem 1rem .6rem 3.4rem}ol.log li{padding:.1rem 0;overflow-wrap:anywhere}
ol.log li::marker{color:var(--dim)}
ul.plain{margin:0;padding:0;list-style:none}
ul.chips{margin:0;padding:0;list-style:none;display:flex;gap:.35rem;flex-wrap:wrap}
ul.chips li{background:var(--code);border-radius:1rem;padding:.05rem .6rem}
.badge{display:inline-block;border:1px solid currentColor;border-radius:1rem;padding:.05rem .6rem;
font-size:.78rem;font-weight:600;line-height:1.5;white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}.busy{color:var(--busy)}.calm{color:var(--calm)}
.none{color:var(--dim)}
.pages{display:flex;gap:.6rem;margin:0 0 1.1rem}
.pages a{border:1px solid var(--line);background:var(--card);border-radius:.5rem;padding:.35rem .9rem}
.problem{border-left:4px solid var(--bad);padding:1rem 1.25rem}
footer{color:var(--dim);font-size:.82rem;padding-top:.5rem;padding-bottom:2rem;overflow-wrap:anywhere}
details.operation{border-bottom:1px solid var(--line)}details.operation:last-child{border-bottom:0}
summary{cursor:pointer;padding:.6rem 1rem;display:flex;gap:.75rem;align-items:baseline;flex-wrap:wrap}
summary:hover{background:color-mix(in srgb,var(--link) 5%,transparent)}
summary .method{min-width:4.6rem;text-align:center}summary .what{color:var(--dim)}
details.operation>div{padding:.25rem 1rem 1rem}
.contents{display:flex;gap:.4rem .9rem;flex-wrap:wrap;margin:0 0 1.1rem;padding:0;list-style:none}
form.card{padding:.25rem 1rem 1rem}fieldset{border:0;margin:0;padding:0}
legend,label.field{display:block;padding:0;margin:.75rem 0 .25rem;font-weight:500}
fieldset label{display:block}form small{color:var(--dim);font-weight:400}
input:not([type=checkbox]){font:inherit;color:inherit;background:var(--bg);border:1px solid var(--line);
border-radius:.4rem;padding:.35rem .6rem;width:100%;max-width:28rem}
button{font:inherit;font-weight:600;color:var(--card);background:var(--link);border:0;border-radius:.5rem;
padding:.45rem 1.1rem;margin-top:1rem;cursor:pointer}
pre.copy{user-select:all}p.label{margin:0;padding:.6rem 1rem 0}
@media (max-width:40rem){th[scope=row]{width:auto}th,td{padding:.45rem .7rem}}
`.replaceAll('\n', '');
