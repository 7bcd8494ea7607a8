// A page of one study: its data stand in the page itself.
{
  const study = JSON.parse(document.getElementById("study").textContent), deep = study.deep;
  document.querySelector("main").append(studyPanel({ ...study, deep: deep && (async () => deep) }));
}
