// Has Microsoft's Kusto language service analyse queries over the table `traces` of Application Insights.
// Standard input: {"folder": where the package lies, "columns": "(name: type, ..)", "queries": {name: text}}.
// Standard output: {name: [what is wrong with the query, ..]}.
const { folder, columns, queries } = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));

// Both files put what they define into the global scope.
require(`${folder}/bridge.min.js`);
require(`${folder}/Kusto.Language.Bridge.min.js`);
const { KustoCode, GlobalState, Symbols } = globalThis.Kusto.Language;

const table = Symbols.TableSymbol.From(columns).WithName('traces');
const database = new Symbols.DatabaseSymbol.ctor('insights', [table]);
const globals = GlobalState.Default.WithDatabase(database);

const wrong = {};
for (const [name, text] of Object.entries(queries)) {
  const found = KustoCode.ParseAndAnalyze(text, globals).GetDiagnostics();
  wrong[name] = Array.from({ length: found.Count }, (_, index) => found.getItem(index))
    .map((each) => `${each.Severity} ${each.Code}: ${each.Message}`);
}
process.stdout.write(JSON.stringify(wrong));
