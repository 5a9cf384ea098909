-- Charlson comorbidity index with age points, from the codes of the hospital admission.
-- Inputs:  stays, diagnoses_icd, charlson_codes (group, slot, icd_version, prefix, weight)
-- Output:  stay_id, charlson
-- Rule:    within a slot (mild and severe liver disease, plain and complicated diabetes, cancer and
--          metastasis) only the heaviest group counts. Codes are assigned at discharge.
WITH codes AS (  -- each once: a prefix is compared with every code
    SELECT DISTINCT icd_version, icd_code FROM diagnoses_icd
), meanings AS (
    SELECT icd_version, icd_code, c.slot, max(c.weight) AS weight
    FROM codes d
    JOIN charlson_codes c USING (icd_version)
    WHERE starts_with(d.icd_code, c.prefix)
    GROUP BY ALL
), slots AS (
    SELECT d.hadm_id, m.slot, max(m.weight) AS weight
    FROM diagnoses_icd d
    SEMI JOIN stays s ON s.hadm_id = d.hadm_id
    JOIN meanings m USING (icd_version, icd_code)
    GROUP BY ALL
), comorbidity AS (
    SELECT hadm_id, sum(weight) AS points FROM slots GROUP BY hadm_id
)
SELECT s.stay_id,
    coalesce(c.points, 0) + greatest(0, least(4, floor((s.age - 40) / 10)))::INTEGER AS charlson
FROM stays s
LEFT JOIN comorbidity c USING (hadm_id)
